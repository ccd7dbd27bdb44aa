"""Work in progress: one scratch folder per task, named by a fingerprint of everything its result depends on.

An interrupted stage finds its finished parts there when it starts again. A task with another result has another folder.
"""

import hashlib
import json
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import filelock

# Remove a folder that has had no new file for this time, in seconds.
_KEEP_FINISHED, _KEEP_UNFINISHED = 3600.0, 30 * 24 * 3600.0
_LOCK, _FINISHED = ".lock", ".finished"  # files in a folder: held while a process works there; present when finished


def fingerprint(*parts: object) -> str:
    """Return 16 hex digits that depend on every part. A part is bytes, a Path (its content counts) or JSON."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part
        data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def prune(finished: Path) -> None:
    """Mark a task as finished and remove old folders beside it: finished ones and abandoned ones."""
    (finished / _FINISHED).touch()
    for task in finished.parent.iterdir():
        with suppress(OSError):  # another process works there (a lock timeout is an OSError) or has removed it
            keep_seconds = _KEEP_FINISHED if (task / _FINISHED).exists() else _KEEP_UNFINISHED
            if task != finished and time.time() - task.stat().st_mtime > keep_seconds:
                with filelock.FileLock(task / _LOCK, timeout=0):
                    shutil.rmtree(task, ignore_errors=True)


def locked(folder: Path) -> filelock.AcquireReturnProxy:
    """Wait until no other process works in `folder`, then lock it until a `with` block or this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that works in {folder}", file=sys.stderr)
        return lock.acquire()
