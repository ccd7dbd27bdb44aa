"""Speed, as ratios against a baseline in the same run. `make bench` prints them; no time decides a test."""

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lib.cells import ScratchLSTM, ScratchRNN

PAIRS = 20


def paired_ratio(ours: Callable[[], object], baseline: Callable[[], object]) -> float:
    """The median of time(ours) / time(baseline), run in turn."""

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    ours(), baseline()
    return statistics.median(seconds(ours) / seconds(baseline) for _ in range(PAIRS))


@pytest.mark.parametrize(("scratch", "reference"), [(ScratchRNN, nn.RNN), (ScratchLSTM, nn.LSTM)])
def test_cells_against_torch_nn(scratch, reference, capsys):
    n, t, d, h = 128, 17, 512, 512
    x = torch.randn(n, t, d, requires_grad=True)
    modules = [kind(d, h, batch_first=True) for kind in (scratch, reference)]
    ours, theirs = ((lambda m=module: m(x)[0].sum().backward()) for module in modules)
    ratio = paired_ratio(ours, theirs)
    with capsys.disabled():
        print(f"\n{scratch.__name__} over {reference.__name__}, forward and backward, {(n, t, d, h)}: {ratio:.2f}")
