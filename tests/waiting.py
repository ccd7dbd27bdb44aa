"""Waiting for what another thread or process is about to do."""

import time
from collections.abc import Callable


def until(done: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until `done()` is true; fails after so many seconds."""
    end, pause = time.monotonic() + seconds, 0.005
    while not done():
        assert time.monotonic() < end, "it never happened"
        time.sleep(pause)
        pause = min(1.1 * pause, 0.1)  # what takes long may cost something to ask for
