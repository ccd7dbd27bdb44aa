"""Work in progress: a folder for each task, named by a fingerprint of all that its result depends on.

What an interrupted stage has finished is found there when it starts again; a task whose result would differ has
another folder.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

# Seconds without a new file in it, after which a folder is nobody's: the work of hours waits for a month.
_KEEP_FINISHED, _KEEP_UNFINISHED = 3600.0, 30 * 24 * 3600.0
_LOCK, _FINISHED = ".lock", ".finished"  # in a folder: who holds it works there; it is there when nothing is left to do


def fingerprint(*parts: object) -> str:
    """16 hex digits that differ where any part does. A part is bytes, a Path (for that file's bytes), or JSON."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def prune(finished: Path) -> None:
    """Removes the folders of finished tasks beside this one, which has replaced them, and those long abandoned."""
    (finished / _FINISHED).touch()
    for task in finished.parent.iterdir():
        with contextlib.suppress(OSError):  # another process is at work there, or has just removed it too
            kept = _KEEP_FINISHED if (task / _FINISHED).exists() else _KEEP_UNFINISHED
            if task != finished and time.time() - task.stat().st_mtime > kept:
                with filelock.FileLock(task / _LOCK, timeout=0):
                    shutil.rmtree(task, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits for other processes to be done in `folder`, and keeps them out; the system lets go for a killed one.

    Two that write the same file, under the one name that unfinished files have, would spoil it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(folder / _LOCK)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that works in {folder}", file=sys.stderr)
        held.acquire()
    try:
        yield
    finally:
        held.release()
