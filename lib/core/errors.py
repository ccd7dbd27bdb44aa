"""Errors that the user can fix, printed in one line."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_LENGTH = 480  # characters of a message, so that it stays under 500 after a command has added "error: "


class UserError(Exception):
    """An error that the user can fix: one line with what is wrong, the value, the parameter or file, and the fix."""

    def __str__(self) -> str:
        return short_line(super().__str__())


def short_line(text: str) -> str:
    """Return `text` as one printable line. Cut the middle of a long text: its start and end matter most to the user."""
    line = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    if len(line) <= _MAX_LENGTH:
        return line
    half = _MAX_LENGTH // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks, or its class name if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Turn any error from reading `path` (missing, no permission, damaged, another version) into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if isinstance(error, PermissionError) or _is_denied(path):
            raise UserError(f"cannot read {path}: permission denied. Change its mode or owner.") from error
        if isinstance(error, FileNotFoundError):
            fix = f"Check that {path.parent} is the right folder and is complete."
            raise UserError(f"{path} is missing. {fix}") from error
        reason = error.strerror or one_line(error)
        raise UserError(f"cannot read {path}: {reason}. Check its permissions and the disk.") from error
    except Exception as error:  # malformed bytes raise many kinds of error; the one of torch lists every tensor
        fix = "Restore the file, or run dvc repro if a stage writes it."
        raise UserError(f"{path} is damaged or from another version: {one_line(error)[:300]}. {fix}") from error


def _is_denied(path: Path) -> bool:
    """Return whether opening the file raises PermissionError. safetensors reports such a file as missing."""
    try:
        path.open("rb").close()
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a UserError in one line and exit with 1; exit with 130 after Ctrl-C.

    Characters of a caption or a file name that the encoding of stdout lacks are printed as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # if the status were 0, DVC would treat the interrupted stage as finished
        print("interrupted", file=sys.stderr)
        sys.exit(130)
