"""How many processes or threads to share work among. Results never depend on it."""

import os


def worker_count() -> int:
    """CAPTION_WORKERS where set, else the cores that this process may use."""
    if chosen := os.environ.get("CAPTION_WORKERS"):
        return max(1, int(chosen))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
