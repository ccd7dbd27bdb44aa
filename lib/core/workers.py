"""How many processes or threads to share work among, and processes to share it with. Results never depend on it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from lib.core.errors import UserError


def worker_count() -> int:
    """CAPTION_WORKERS where set, else the cores that this process may use."""
    if asked := os.environ.get("CAPTION_WORKERS"):
        if not asked.isdecimal() or int(asked) == 0:
            raise UserError(f"CAPTION_WORKERS: got {asked!r}, should be a number from 1 on")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which are gone when this process is, whether it ends, is interrupted or is killed.

    Raises UserError where one of them is ended, as by a system that is short of memory.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), _follow_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a worker process was ended: is the memory too small? Set a lower CAPTION_WORKERS") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    # Ctrl-C reaches all processes at once. It is for the parent to act on: a worker that ended in the midst of an
    # answer would leave the parent waiting for the rest of it for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
