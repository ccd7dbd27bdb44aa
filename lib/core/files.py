"""Writing files so that a reader never sees half of one."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path


def stat_signature(path: Path) -> list[object]:
    """Stands for the content of a file that is too large to be read again: its name, size and time of change."""
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def link_into(files: Iterable[Path], folder: Path) -> None:
    """Puts finished files into `folder` under their own names, without a second copy where the disk knows hard links.

    They stay in the scratch folder too: until the output is in DVC's cache, that is what survives an interruption.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link_or_copy(file, folder / file.name)


def link_or_copy(file: Path, target: Path) -> None:
    """A hard link to `file` at `target`, or a copy where the disk knows none."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        with atomic_write(target) as unfinished:
            shutil.copyfile(file, unfinished)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when all of it is on the disk: `path` is whole, or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # half a file only takes room, of which there may be none left
        raise
