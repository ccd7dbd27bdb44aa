"""Scratch folders for unfinished work: one per task, named by a fingerprint of everything that its result depends on.

When an interrupted stage starts again, it finds its finished parts in this folder. If an input of the task changes, the
fingerprint and the folder change too.
"""

import hashlib
import json
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import filelock

# A folder is removed if it has had no new file for this time, in seconds.
_KEEP_FINISHED, _KEEP_UNFINISHED = 3600.0, 30 * 24 * 3600.0
# Files in the folder of a task: the lock of the process that works on it, and a mark that the task is finished.
_LOCK, _FINISHED = ".lock", ".finished"


def fingerprint(*parts: object) -> str:
    """Return 16 hex digits that depend on every part: bytes, the content of a Path, or a JSON value."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def prune(finished: Path) -> None:
    """Mark the task in the folder `finished` as finished. Remove the old folders of other tasks beside it."""
    (finished / _FINISHED).touch()
    for task in finished.parent.iterdir():
        with suppress(OSError):  # another process holds the lock (filelock.Timeout is an OSError) or removed the folder
            keep_seconds = _KEEP_FINISHED if (task / _FINISHED).exists() else _KEEP_UNFINISHED
            if task != finished and time.time() - task.stat().st_mtime > keep_seconds:
                with filelock.FileLock(task / _LOCK, timeout=0):
                    shutil.rmtree(task, ignore_errors=True)


def locked(folder: Path) -> filelock.AcquireReturnProxy:
    """Lock `folder` until a `with` block or this process ends. Wait while another process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that works in {folder}", file=sys.stderr)
        return lock.acquire()
