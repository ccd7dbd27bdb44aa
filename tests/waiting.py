"""Wait for another thread or process."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(done: Callable[[], Found], *processes: subprocess.Popen, seconds: float = 20.0) -> Found:
    """Return the first true value of `done()`. Fail after `seconds`, or if one of the `processes` ends before."""
    end, pause = time.monotonic() + seconds, 0.005
    while not (found := done()):
        assert time.monotonic() < end, "it never happened"
        assert all(process.poll() is None for process in processes), "it ended before"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.1)  # wait longer each time, because `done` may be slow
    return found
