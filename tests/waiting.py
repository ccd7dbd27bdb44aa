"""Waiting for what another thread or process is about to do."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(done: Callable[[], Found], *processes: subprocess.Popen, seconds: float = 20.0) -> Found:
    """Waits until `done()` is true, and returns what it gave.

    Fails after so many seconds, or when one of the `processes` has ended before.
    """
    end, pause = time.monotonic() + seconds, 0.005
    while not (found := done()):
        assert time.monotonic() < end, "it never happened"
        assert all(process.poll() is None for process in processes), "it ended before"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.1)  # what takes long may cost something to ask for
    return found
