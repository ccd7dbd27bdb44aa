"""How the benchmarks measure."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lib.cells.products import project

PAIRS = 20


def paired(ours: Callable[[], object], baseline: Callable[[], object], pairs: int = PAIRS) -> tuple[float, float]:
    """The median of time(ours) / time(baseline), run in turn, and the median of time(ours), in seconds."""

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
    """Operations a second of a product that is large enough for the device."""
    side = 8192 if torch.device(kind.get("device", "cpu")).type == "cuda" else 2048
    return product_rate(side, side, side, **kind)


def product_rate(m: int, k: int, n: int, **kind: Any) -> float:
    """Operations a second that the machine's fastest product of (m, k) with (k, n) reaches; of a device and dtype."""
    x, w, b = torch.randn(m, k, **kind), torch.randn(n, k, **kind), torch.zeros(n, **kind)
    ratio, seconds = paired(lambda: project(x, w, b), lambda: x @ w.T)
    return 2 * m * k * n / (seconds / max(ratio, 1.0))
