"""The cells' speed, as ratios against torch.nn in the same run. `make bench` prints them; no time decides a test."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lib.cells import ScratchLSTM, ScratchRNN
from lib.cells.products import project

PAIRS = 20
SHAPES = [(128, 17, 512, 512), (64, 20, 256, 512), (256, 20, 512, 1024), (512, 17, 512, 512)]  # N, T, D, H


def paired(ours: Callable[[], object], baseline: Callable[[], object]) -> tuple[float, float]:
    """The median of time(ours) / time(baseline), run in turn, and the median of time(ours), in seconds."""

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    ours(), baseline()
    times = [(seconds(ours), seconds(baseline)) for _ in range(PAIRS)]
    return statistics.median(a / b for a, b in times), statistics.median(a for a, _ in times)


def product_rate() -> float:
    """Multiplications and additions a second that the machine's fastest matrix product reaches."""
    m = k = n = 2048
    x, w, b = torch.randn(m, k), torch.randn(n, k), torch.zeros(n)
    ratio, seconds = paired(lambda: project(x, w, b), lambda: x @ w.T)
    return 2 * m * k * n / (seconds / max(ratio, 1.0))


@pytest.mark.parametrize(("scratch", "reference", "gates"), [(ScratchRNN, nn.RNN, 1), (ScratchLSTM, nn.LSTM, 4)])
def test_cells_against_torch_nn(scratch, reference, gates, capsys):
    rate = product_rate()
    for n, t, d, h in SHAPES:
        x = torch.randn(n, t, d, requires_grad=True)
        modules = [kind(d, h, batch_first=True) for kind in (scratch, reference)]
        ours, theirs = ((lambda m=module, x=x: m(x)[0].sum().backward()) for module in modules)
        ratio, seconds = paired(ours, theirs)
        share = 3 * 2 * n * t * (d + h) * gates * h / seconds / rate  # a product forward, two backward
        with capsys.disabled():
            print(
                f"\n{scratch.__name__} over {reference.__name__}, forward and backward, (N, T, D, H) = {n, t, d, h}: "
                f"{ratio:.2f}; {share:.0%} of the machine's matrix-product rate ({rate / 1e9:.0f} GFLOP/s)",
                end="",
            )


def test_a_step_of_decoding_against_torch_nn(capsys):
    n, d, h = 640, 512, 512
    ours, theirs = ScratchLSTM(d, h), nn.LSTMCell(d, h)
    x, state = torch.randn(n, d), (torch.randn(n, h), torch.randn(n, h))
    layered = tuple(part[None] for part in state)
    with torch.inference_mode():
        ratio, _ = paired(lambda: ours(x[:, None], layered), lambda: theirs(x, state))
    with capsys.disabled():
        print(f"\none step of ScratchLSTM over nn.LSTMCell, N = {n}, D = H = {h}: {ratio:.2f}")
