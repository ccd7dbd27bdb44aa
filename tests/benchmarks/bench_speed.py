"""The cells' speed, as ratios against torch.nn in the same run. `make bench` prints them; no time decides a test."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from lib.cells import ScratchLSTM, ScratchRNN
from tests.benchmarks.timing import paired, product_rate

SHAPES = [(128, 17, 512, 512), (64, 20, 256, 512), (256, 20, 512, 1024), (512, 17, 512, 512)]  # N, T, D, H


MODULES = {"RNN": (ScratchRNN, nn.RNN, 1), "LSTM": (ScratchLSTM, nn.LSTM, 4)}


def measure(cell: str, n: int, t: int, d: int, h: int) -> dict[str, float]:
    """Forward and backward: the time over torch.nn's, and what share it reaches of the matrix-product rate."""
    scratch, reference, gates = MODULES[cell]
    x = torch.randn(n, t, d, requires_grad=True)
    modules = [kind(d, h, batch_first=True) for kind in (scratch, reference)]
    ratio, seconds = paired(*((lambda m=module: m(x)[0].sum().backward()) for module in modules))
    rate = product_rate(2048, 2048, 2048)
    products = 3 * 2 * n * t * (d + h) * gates * h  # one forward, two backward
    return {"ratio": ratio, "share": products / seconds / rate, "rate": rate}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", MODULES)
def test_cells_against_torch_nn(cell, shape, capsys):
    # In a process of its own, as a training would be: memory that malloc kept from one shape changes the next's time.
    code = f"import json; from tests.benchmarks.bench_speed import *; print(json.dumps(measure({cell!r}, *{shape})))"
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    with capsys.disabled():
        print(
            f"\nScratch{cell} over nn.{cell}, forward and backward, (N, T, D, H) = {shape}: {found['ratio']:.2f}; "
            f"{found['share']:.0%} of the machine's matrix-product rate ({found['rate'] / 1e9:.0f} GFLOP/s)",
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
