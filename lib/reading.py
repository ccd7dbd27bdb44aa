"""Reading files that this library wrote, and that may have been damaged since, or come of another version of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import UserError, one_line

_LONGEST = 300  # characters of a reason; torch lists every tensor


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Turns whatever a missing, damaged or strange file makes its readers raise into a UserError that names `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"there is no {path.name} in {path.parent}: is that the right folder, and whole?") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make it anew, or take another") from error
    except Exception as error:  # wild bytes may make a reader raise almost anything
        reason = one_line(error)[:_LONGEST]
        raise UserError(f"{path} is damaged, or of another version: {reason}; make it anew, or take another") from error
