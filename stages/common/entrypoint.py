"""How a stage or a tool starts: errors printed in one line, and never a zero exit status after an interrupt."""

import errno
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from lib.core.errors import UserError
from stages.common.paths import SCRATCH

# How Python, pyarrow, safetensors and NumPy each report a full disk. Not all of them set errno.
_DISK_FULL = re.compile(rf"(?i)\b(errno|os error) ({errno.ENOSPC}|{errno.EDQUOT})\b|requested and \d+ written")


def run(main: Callable[[], None]) -> None:
    """Run `main`. Print a user's or disk error in one line and exit with 1; exit with 130 after Ctrl-C."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except (OSError, SafetensorError) as error:
        sys.exit(f"error: {_disk_error(error)}")
    except KeyboardInterrupt:  # DVC takes a stage that exits with 0 after Ctrl-C for finished
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _disk_error(error: OSError | SafetensorError) -> str:
    if _DISK_FULL.search(str(error)):
        folders = [folder.resolve() for folder in (Path(), SCRATCH) if folder.exists()]
        fullest = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
        return f"the disk of {fullest} is full: free some space and run again. Finished work is kept."
    return f"{getattr(error, 'filename', None) or 'input or output'}: {getattr(error, 'strerror', None) or error}"
