"""How many processes or threads share work, and a pool of processes. Results never depend on their number."""

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
    """Return CAPTION_WORKERS; if unset, the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return positive_env("CAPTION_WORKERS", cores)


@contextlib.contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that end with this process, even if it is killed.

    Raises UserError if one of them is killed, for example because memory is short.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), _init_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed: is the memory too small? Set a lower CAPTION_WORKERS.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    # Ctrl-C reaches all processes. Only the parent acts on it: if a worker ended in the middle of an answer, the
    # parent would wait forever for the rest of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent
    exit_with_parent(parent.pid)


def exit_with_parent(parent: int | None) -> None:
    """Start a thread that ends this process when the process `parent`, which started it, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
