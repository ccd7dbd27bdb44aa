"""Paired timing for the benchmarks."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.cells.products import product

PAIRS = 20


def paired(ours: Callable[[], object], baseline: Callable[[], object], pairs: int = PAIRS) -> tuple[float, float]:
    """Run both in turn; return the medians of time(ours) / time(baseline) and of time(ours) in seconds."""

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    ours(), baseline()
    times = [(seconds(ours), seconds(baseline)) for _ in range(pairs)]
    return statistics.median(a / b for a, b in times), statistics.median(a for a, _ in times)


def peak_rate(**kind: Any) -> float:
    """Return the operations per second of a matrix product that is large enough for the device."""
    side = 8192 if torch.device(kind.get("device", "cpu")).type == "cuda" else 2048
    work = fastest_product(side, side, side, **kind)
    _, seconds = paired(work, work)
    return 2 * side**3 / seconds


def fastest_product(m: int, k: int, n: int, **kind: Any) -> Callable[[], Tensor]:
    """Return a function that multiplies (m, k) by (k, n) with the fastest of two routines. `kind`: device, dtype."""
    x, w, b = torch.randn(m, k, **kind), torch.randn(n, k, **kind), torch.zeros(n, **kind)
    routines = lambda: product(x, w, b), lambda: x @ w.T
    return routines[paired(*routines)[0] > 1]
