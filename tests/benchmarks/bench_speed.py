"""Compare the time of the cells with that of torch.nn, measured in the same run. `make bench` prints the ratios."""

import json
import subprocess
import sys
from statistics import median

import pytest
import torch
from torch import nn

from lib.cells import ScratchLSTM, ScratchRNN
from tests.benchmarks.timing import paired, peak_rate

SHAPES = [(128, 17, 512, 512), (64, 20, 256, 512), (256, 20, 512, 1024), (512, 17, 512, 512)]  # N, T, D, H
KINDS = [("cpu", "float32")] + [("cuda", kind) for kind in ("float32", "bfloat16") if torch.cuda.is_available()]
RUNS, PAIRS_EACH = 5, 7  # several processes, because the memory that each gets changes its ratio by 0.05
MODULES = {"RNN": (ScratchRNN, nn.RNN, 1), "LSTM": (ScratchLSTM, nn.LSTM, 4)}  # ours, torch's, number of gates


def measure(cell: str, device: str, dtype: str, n: int, t: int, d: int, h: int) -> dict[str, float]:
    """Time forward and backward passes.

    Return `ratio`, our time divided by torch.nn's; `rate`, the operations per second of a large matrix product; and
    `share`, our operations per second divided by `rate`.
    """
    scratch, reference, gates = MODULES[cell]
    kind = {"device": device, "dtype": getattr(torch, dtype)}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # for both modules
    x = torch.randn(n, t, d, **kind, requires_grad=True)
    modules = [module(d, h, batch_first=True).to(**kind) for module in (scratch, reference)]
    ratio, seconds = paired(*((lambda m=module: m(x)[0].sum().backward()) for module in modules), PAIRS_EACH)
    rate = peak_rate(**kind)
    products = 3 * 2 * n * (t * d + (t - 1) * h) * gates * h  # 3: one forward, two backward; h0 has no product
    return {"ratio": ratio, "share": products / seconds / rate, "rate": rate}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", MODULES)
@pytest.mark.parametrize(("device", "dtype"), KINDS)
def test_cells_against_torch_nn(device, dtype, cell, shape, show):
    if device == "cuda":
        runs = [measure(cell, device, dtype, *shape) for _ in range(RUNS)]
    else:  # a new process per run, because memory that malloc keeps would change the next run
        call = f"measure({cell!r}, {device!r}, {dtype!r}, *{shape})"
        code = f"import json; from tests.benchmarks.bench_speed import *; print(json.dumps({call}))"
        runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(RUNS)]
    ratios = sorted(run["ratio"] for run in runs)
    share, rate = (median(run[name] for run in runs) for name in ("share", "rate"))
    show(
        f"Scratch{cell} over nn.{cell}, {device}, {dtype}, forward and backward, (N, T, D, H) = {shape}: "
        f"{median(ratios):.2f}, the median of {RUNS} runs, from {ratios[0]:.2f} to {ratios[-1]:.2f}; {share:.0%} "
        f"of the device's matrix-product rate ({rate / 1e9:.0f} GFLOP/s)"
    )


@pytest.mark.parametrize(("device", "dtype"), KINDS)
def test_a_decoding_step_against_torch_nn(device, dtype, show):
    n, d, h = 640, 512, 512
    kind = {"device": device, "dtype": getattr(torch, dtype)}
    ours, theirs = ScratchLSTM(d, h).to(**kind), nn.LSTMCell(d, h).to(**kind)
    x, state = torch.randn(n, d, **kind), (torch.randn(n, h, **kind), torch.randn(n, h, **kind))
    layered = tuple(part[None] for part in state)
    with torch.inference_mode():
        ratio, _ = paired(lambda: ours(x[:, None], layered), lambda: theirs(x, state))
    show(f"one step of ScratchLSTM over nn.LSTMCell, {device}, {dtype}, N = {n}, D = H = {h}: {ratio:.2f}")
