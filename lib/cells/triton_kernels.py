"""A sequence step by step as one Triton kernel, for GPUs: the four functions of `recurrence`.

There the operations of a step, launched one by one, would each wait for their launch, longer than they take. Here all
steps are launched at once. Each program of the kernel has a tile of captions by hidden units, and does all of a step
that concerns these, the product with the state before included. For that it needs the state's other units, and so
waits after each step until the programs that have them are as far. All then have to run at the same time: where they
are more than the GPU has processors, each step is a launch of its own.

Sums are in float32. Equations and names are those of `rnn` and `lstm`; all is time-major. (Diamos et al. 2016,
"Persistent RNNs", keep the weights in registers as well; here each step reads them from the cache.)
"""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor


class _Tile(NamedTuple):
    """What a program has to do, and how it goes about it."""

    rows: int  # captions
    columns: int  # hidden units
    depth: int  # how much of what a product sums over is loaded at a time
    warps: int


_TILES = _Tile(32, 16, 128, 4), _Tile(64, 32, 64, 4), _Tile(128, 32, 64, 8)  # the first that all can run at once
_STAGES = 4  # loads under way during a product, at most
_RESERVE = 2**14  # bytes of a processor's memory that are for other things than those loads


def rnn_forward(a: Tensor, h: Tensor, w_hh: Tensor, first: int) -> None:
    """As `recurrence.rnn_forward`."""
    _launch(_rnn_forward, [a, h, h[1:]], [], w_hh, h.shape[1:], begun=not first)


def rnn_backward(h: Tensor, w_hh: Tensor, dh: Tensor, da: Tensor, *, to_h0: bool) -> Tensor | None:
    """As `recurrence.rnn_backward`."""
    _launch(_rnn_backward, [h[1:], dh.contiguous(), da], [], w_hh.T, h.shape[1:], backward=True)
    return da[0] @ w_hh if to_h0 else None


def lstm_forward(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, first: int) -> None:
    """As `recurrence.lstm_forward`."""
    _launch(_lstm_forward, [gates, h, c, h[1:], c[1:]], [], w_hh, h.shape[1:], begun=not first)


def lstm_backward(
    gates: Tensor, c: Tensor, w_hh: Tensor, dh: Tensor, dc: Tensor, da: Tensor, *, to_h0: bool
) -> Tensor | None:
    """As `recurrence.lstm_backward`."""
    _launch(_lstm_backward, [gates, c, c[1:], dh.contiguous(), da], [dc], w_hh.T, dc.shape, backward=True)
    return da[0] @ w_hh if to_h0 else None


def _launch(
    kernel: Any,
    sequences: Sequence[Tensor],
    others: Sequence[Tensor],
    w: Tensor,
    state: Sequence[int],
    *,
    begun: bool = False,
    backward: bool = False,
) -> None:
    """Runs `kernel` over all T steps, each of which has its own part of the `sequences`, (T, N, ...) each.

    `w` (G, K) is what it multiplies by, (N, H) the shape of a state; `begun` says if there is a state before the first
    step, which is that of the last word where it goes `backward`.
    """
    (rows, hidden), steps, w = state, len(sequences[0]), w.contiguous()
    assert all(sequence.is_contiguous() for sequence in sequences)
    assert max(w.numel(), *(sequence.stride(0) for sequence in sequences)) < 2**31  # places are counted in 32 bits

    processors, memory = _processors(w.device)
    tile = next((tile for tile in _TILES if prod(_grid(tile, rows, hidden)) <= processors), _TILES[-1])
    grid = _grid(tile, rows, hidden)
    at_once = steps if prod(grid) <= processors else 1
    loaded = (tile.rows + tile.columns * len(w) // hidden) * tile.depth * w.element_size()  # bytes of a stage
    stages = max(1, min(_STAGES, (memory - _RESERVE) // loaded))
    arrived = (torch.zeros if at_once > 1 else torch.empty)(grid[1], dtype=torch.int32, device=w.device)
    with torch.cuda.device_of(w):
        for done in range(0, steps, at_once):
            t = steps - 1 - done if backward else done
            kernel[grid](
                *(sequence[t:] if t else sequence for sequence in sequences), *others, w, arrived,
                int(begun or done > 0), at_once, rows, hidden,
                _product_kind(w), *tile[:3], num_warps=tile.warps, num_stages=stages,
                launch_cooperative_grid=at_once > 1,  # so that all programs run at the same time
            )  # fmt: skip


def _grid(tile: _Tile, rows: int, hidden: int) -> tuple[int, int]:
    return triton.cdiv(hidden, tile.columns), triton.cdiv(rows, tile.rows)


@cache
def _processors(device: torch.device) -> tuple[int, int]:
    """How many a GPU has, and the bytes of memory of each. A CPU, with Triton's interpreter, has none."""
    if device.type == "cpu":
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    memory = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return properties.multi_processor_count, memory


def _product_kind(w: Tensor) -> str:
    """How Triton is to multiply: in float32 as precisely as torch is told to; three products in TF32 are as good."""
    if w.dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


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
def _load(at, inside):  # type: ignore[no-untyped-def]
    return tl.load(at, inside, 0).to(tl.float32)


@triton.jit
def _add_product(  # type: ignore[no-untyped-def]
    total, x, w, row, out, rows, outs, inputs, KIND: tl.constexpr, DEPTH: tl.constexpr
):
    """total + x[row] w[out]^T, for x (rows, inputs) and w (outs, inputs)."""
    for first in range(0, inputs, DEPTH):
        k = first + tl.arange(0, DEPTH)
        x_part = tl.load(x + row[:, None] * inputs + k[None, :], (row < rows)[:, None] & (k < inputs)[None, :], 0)
        w_part = tl.load(w + out[None, :] * inputs + k[:, None], (out < outs)[None, :] & (k < inputs)[:, None], 0)
        total = tl.dot(x_part, w_part, total, input_precision=KIND)
    return total


@triton.jit
def _wait_for_others(arrived, step):  # type: ignore[no-untyped-def]
    """Until all programs of these captions are through `step`, and see what the others have written."""
    arrived += tl.program_id(1)
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < (step + 1) * tl.num_programs(0):
        pass
    tl.debug_barrier()


@triton.jit
def _tile(rows, hidden, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows and columns of a program's tile, and which of its elements there are."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    return row, column, (row < rows)[:, None] & (column < hidden)[None, :]


@triton.jit(do_not_specialize=["begun", "steps", "rows"])
def _rnn_forward(  # type: ignore[no-untyped-def]
    a, h, next_h, w, arrived, begun, steps, rows, hidden,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, hidden, ROWS, COLUMNS)
    place, size = row[:, None] * hidden + column[None, :], rows * hidden
    for step in range(steps):
        total = _load(a + place, inside)
        if begun + step > 0:
            total = _add_product(total, h, w, row, column, rows, hidden, hidden, KIND, DEPTH)
        tl.store(next_h + place, _tanh(total), inside)
        a, h, next_h = a + size, h + size, next_h + size
        if step + 1 < steps:
            _wait_for_others(arrived, step)


@triton.jit(do_not_specialize=["begun", "steps", "rows"])
def _rnn_backward(  # type: ignore[no-untyped-def]
    next_h, dh, da, w, arrived, begun, steps, rows, hidden,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, hidden, ROWS, COLUMNS)
    place, size = row[:, None] * hidden + column[None, :], rows * hidden
    for step in range(steps):
        dnext_h = _load(dh + place, inside)
        if begun + step > 0:  # what comes back from the step after
            dnext_h = _add_product(dnext_h, da + size, w, row, column, rows, hidden, hidden, KIND, DEPTH)
        out = _load(next_h + place, inside)
        tl.store(da + place, dnext_h * (1 - out * out), inside)
        next_h, dh, da = next_h - size, dh - size, da - size
        if step + 1 < steps:
            _wait_for_others(arrived, step)


@triton.jit(do_not_specialize=["begun", "steps", "rows"])
def _lstm_forward(  # type: ignore[no-untyped-def]
    gates, h, c, next_h, next_c, w, arrived, begun, steps, rows, hidden,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, hidden, ROWS, COLUMNS)
    place, size = row[:, None] * hidden + column[None, :], rows * hidden
    at_i = row[:, None] * 4 * hidden + column[None, :]
    at_f, at_g, at_o = at_i + hidden, at_i + 2 * hidden, at_i + 3 * hidden
    # One product for all gates of the tile's units; they lie unit by unit, i, f, g, o, to be taken apart with no copy.
    number = tl.arange(0, 4 * COLUMNS)
    unit = tl.program_id(0) * COLUMNS + number // 4
    out = tl.where(unit < hidden, number % 4 * hidden + unit, 4 * hidden)
    for step in range(steps):
        total = tl.full((ROWS, 4 * COLUMNS), 0.0, tl.float32)
        if begun + step > 0:
            total = _add_product(total, h, w, row, out, rows, 4 * hidden, hidden, KIND, DEPTH)
        i_and_g, f_and_o = tl.split(tl.reshape(total, (ROWS, COLUMNS, 2, 2)))
        i, g = tl.split(i_and_g)
        f, o = tl.split(f_and_o)
        i = _sigmoid(i + _load(gates + at_i, inside))
        f = _sigmoid(f + _load(gates + at_f, inside))
        g = _tanh(g + _load(gates + at_g, inside))
        o = _sigmoid(o + _load(gates + at_o, inside))
        c_after = f * _load(c + place, inside) + i * g
        tl.store(gates + at_i, i, inside)
        tl.store(gates + at_f, f, inside)
        tl.store(gates + at_g, g, inside)
        tl.store(gates + at_o, o, inside)
        tl.store(next_c + place, c_after, inside)
        tl.store(next_h + place, o * _tanh(c_after), inside)
        gates, h, c, next_h, next_c = gates + 4 * size, h + size, c + size, next_h + size, next_c + size
        if step + 1 < steps:
            _wait_for_others(arrived, step)


@triton.jit(do_not_specialize=["begun", "steps", "rows"])
def _lstm_backward(  # type: ignore[no-untyped-def]
    gates, c, next_c, dh, da, dc, w, arrived, begun, steps, rows, hidden,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, inside = _tile(rows, hidden, ROWS, COLUMNS)
    place, size = row[:, None] * hidden + column[None, :], rows * hidden
    at_i = row[:, None] * 4 * hidden + column[None, :]
    at_f, at_g, at_o = at_i + hidden, at_i + 2 * hidden, at_i + 3 * hidden
    for step in range(steps):
        dnext_h = _load(dh + place, inside)
        if begun + step > 0:  # what comes back from the step after
            dnext_h = _add_product(dnext_h, da + 4 * size, w, row, column, rows, hidden, 4 * hidden, KIND, DEPTH)
        i, f = _load(gates + at_i, inside), _load(gates + at_f, inside)
        g, o = _load(gates + at_g, inside), _load(gates + at_o, inside)
        tanh_c = _tanh(_load(next_c + place, inside))
        dnext_c = _load(dc + place, inside) + dnext_h * o * (1 - tanh_c * tanh_c)
        da_f = dnext_c * _load(c + place, inside) * f * (1 - f)
        tl.store(da + at_i, dnext_c * g * i * (1 - i), inside)
        tl.store(da + at_f, da_f, inside)
        tl.store(da + at_g, dnext_c * i * (1 - g * g), inside)
        tl.store(da + at_o, dnext_h * tanh_c * o * (1 - o), inside)
        tl.store(dc + place, dnext_c * f, inside)
        gates, c, next_c, dh, da = gates - 4 * size, c - size, next_c - size, dh - size, da - 4 * size
        if step + 1 < steps:
            _wait_for_others(arrived, step)
