"""Run the `main` of a stage or a tool. Print an error in one line, and exit with a non-zero status."""

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from lib.core.errors import UserError, exit_on_error
from stages.common.paths import SCRATCH

# Matches the messages with which Python, pyarrow, safetensors and NumPy report a full disk. Not all of them set errno.
_DISK_FULL = re.compile(rf"(?i)\b(errno|os error) ({errno.ENOSPC}|{errno.EDQUOT})\b|requested and \d+ written")


def run(main: Callable[[], None]) -> None:
    """Run `main`. Print a UserError or a disk error in one line and exit with 1; exit with 130 after Ctrl-C."""
    with exit_on_error():
        try:
            main()
        except (OSError, SafetensorError) as error:
            path, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
            problem = f"cannot read or write {path}" if path else "input or output failed"
            text = f"{problem}: {reason or error}"
            if _DISK_FULL.search(str(error)):
                folders = [folder.resolve() for folder in (Path(), SCRATCH) if folder.exists()]
                fullest = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
                text = f"the disk of {fullest} is full. Free some space and run again. Finished work is kept."
            raise UserError(text) from error
