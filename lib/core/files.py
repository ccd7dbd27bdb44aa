"""Write files so that a reader never sees an incomplete one."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def expand_home(path: str) -> str:
    """Replace a `~` at the start with the home folder. A shell does not do so in params.yaml or --model=~/models/a."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for an unknown user, and drops a leading ./


def stat_signature(path: Path) -> list[object]:
    """Return name, size and modification time, to detect changes of a file that is too large to hash."""
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def link_into(files: Iterable[Path], folder: Path) -> None:
    """Link finished files into `folder`. Keep the originals, because DVC may not have cached the links yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link_or_copy(file, folder / file.name)


def link_or_copy(file: Path, target: Path) -> None:
    """Make `target` a hard link to `file`, or a copy if the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        with atomic_write(target) as unfinished:
            shutil.copyfile(file, unfinished)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. Rename it to `path` when the file is on disk; delete it after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # frees space if the error is a full disk
        raise
