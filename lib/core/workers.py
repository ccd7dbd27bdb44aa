"""Pools of worker processes, and the number of workers. Results never depend on this number."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from lib.core.errors import UserError


def positive_env(name: str, default: int) -> int:
    """Return the environment variable `name` as a positive integer, or `default` if it is unset or empty."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) == 0:
        raise UserError(f"{name}={value}: not a positive integer. Use 1 or more, or unset it.")
    return int(value)


def worker_count() -> int:
    """Return the environment variable CAPTION_WORKERS or, if unset, the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return positive_env("CAPTION_WORKERS", cores)


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that end with this process, even if it is killed.

    Raises UserError if a worker is killed, for example because the memory is full.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), _init_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        fix = f"Set CAPTION_WORKERS below {count}." if count > 1 else "Close other programs, or use a larger machine."
        raise UserError(f"a worker process was killed, probably because the memory was full. {fix}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    # Ctrl-C reaches all processes, but only the parent may act on it. If a worker exited while it sent a result, the
    # parent would wait forever for the rest of the result.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent
    exit_with_parent(parent.pid)


def exit_with_parent(parent: int | None) -> None:
    """Start a thread that ends this process when its parent process, with the id `parent`, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
