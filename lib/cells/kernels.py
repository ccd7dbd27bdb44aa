"""What an LSTM does between its matrix products, as one Triton kernel a step, for GPUs.

There a step's dozen of element-wise operations would each wait for its launch, longer than it takes. Each program of a
kernel has _BLOCK of the N H elements, and of each element all four gates; sums are in float32 at least. Equations and
names are those of `lib.cells.lstm`.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

_BLOCK = 512


def forward(gates: Tensor, previous_c: Tensor, c: Tensor, h: Tensor) -> None:
    """Writes i, f, g and o over a, which `gates` (N, 4H) holds, and c and h (N, H), from previous_c (N, H)."""
    _launch(_forward, c, gates, previous_c, c, h)


def backward(gates: Tensor, previous_c: Tensor, c: Tensor, dh: Tensor, dc: Tensor, da: Tensor) -> None:
    """Writes da (N, 4H), which may be `gates`, and dc of the step before over dc (N, H); the others (N, H) are read."""
    _launch(_backward, c, gates, previous_c, c, dh, dc, da)


def _launch(kernel: Any, like: Tensor, *tensors: Tensor) -> None:
    """Runs `kernel` on contiguous tensors, once for each element of `like` (N, H)."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert 4 * like.numel() < 2**31  # places are counted in 32 bits
    precision = tl.float64 if like.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(like):
        kernel[triton.cdiv(like.numel(), _BLOCK),](*tensors, like.numel(), like.shape[1], precision, _BLOCK)


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # The difference would leave nothing of a small x; of the series what is left out is less than rounding takes.
    square = x * x
    series = x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return tl.where(square < 0.0025, series, 2 * _sigmoid(2 * x) - 1)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    gates, previous_c, c, h, elements, hidden, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < elements
    at_i = gates + place // hidden * 4 * hidden + place % hidden
    at_f, at_g, at_o = at_i + hidden, at_i + 2 * hidden, at_i + 3 * hidden
    i = _sigmoid(tl.load(at_i, inside).to(PRECISION))
    f = _sigmoid(tl.load(at_f, inside).to(PRECISION))
    g = _tanh(tl.load(at_g, inside).to(PRECISION))
    o = _sigmoid(tl.load(at_o, inside).to(PRECISION))
    next_c = f * tl.load(previous_c + place, inside).to(PRECISION) + i * g
    tl.store(at_i, i, inside)
    tl.store(at_f, f, inside)
    tl.store(at_g, g, inside)
    tl.store(at_o, o, inside)
    tl.store(c + place, next_c, inside)
    tl.store(h + place, o * _tanh(next_c), inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    gates, previous_c, c, dh, dc, da, elements, hidden, PRECISION: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < elements
    first = place // hidden * 4 * hidden + place % hidden
    i = tl.load(gates + first, inside).to(PRECISION)
    f = tl.load(gates + first + hidden, inside).to(PRECISION)
    g = tl.load(gates + first + 2 * hidden, inside).to(PRECISION)
    o = tl.load(gates + first + 3 * hidden, inside).to(PRECISION)
    tanh_c = _tanh(tl.load(c + place, inside).to(PRECISION))
    dnext_h = tl.load(dh + place, inside).to(PRECISION)
    dnext_c = tl.load(dc + place, inside).to(PRECISION) + dnext_h * o * (1 - tanh_c * tanh_c)
    da_f = dnext_c * tl.load(previous_c + place, inside).to(PRECISION) * f * (1 - f)
    tl.store(da + first, dnext_c * g * i * (1 - i), inside)
    tl.store(da + first + hidden, da_f, inside)
    tl.store(da + first + 2 * hidden, dnext_c * i * (1 - g * g), inside)
    tl.store(da + first + 3 * hidden, dnext_h * tanh_c * o * (1 - o), inside)
    tl.store(dc + place, dnext_c * f, inside)
