"""The loop over the steps of a sequence as one Triton kernel, for GPUs: the four functions of `time_loop`.

To launch an operation takes longer than to compute it, so one launch does all steps. Each program of the kernel has a
tile of captions by hidden units. It computes whole steps for its tile, including the product with the previous state.
This product needs all hidden units, so after each step a program waits for the other programs with the same captions.
So all programs must run at the same time. If there are more programs than the GPU has multiprocessors, each step is a
separate launch.

Sums are in float32. Equations and names are those of `rnn` and `lstm`; tensors are time-major. (Diamos et al. 2016,
"Persistent RNNs", also keep the weights in registers. Here, each step reads the weights from the cache.)
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
    rows: int  # captions
    columns: int  # hidden units
    depth: int  # block size along the summed (K) dimension of the matrix product
    warps: int


# Tiles to try in this order. _launch takes the first one for which all programs can run at the same time. If there is
# none, it takes the last.
_TILES = _Tile(32, 16, 128, 4), _Tile(64, 32, 64, 4), _Tile(128, 32, 64, 8)
_STAGES = 4  # maximum number of loads in flight during a product
_RESERVE = 2**14  # bytes of shared memory that these loads leave free


def rnn_forward(a: Tensor, h: Tensor, w_hh: Tensor, *, has_h0: bool) -> None:
    """Do what `time_loop.rnn_forward` does."""
    _launch(_rnn_forward, [a, h, h[1:]], [], w_hh, h.shape[1:], has_previous=has_h0)


def rnn_backward(h: Tensor, w_hh: Tensor, dh: Tensor, da: Tensor) -> None:
    """Do what `time_loop.rnn_backward` does."""
    _launch(_rnn_backward, [h[1:], dh.contiguous(), da], [], w_hh.T, h.shape[1:], backward=True)


def lstm_forward(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, *, has_h0: bool) -> None:
    """Do what `time_loop.lstm_forward` does."""
    _launch(_lstm_forward, [gates, h, c, h[1:], c[1:]], [], w_hh, h.shape[1:], has_previous=has_h0)


def lstm_backward(gates: Tensor, c: Tensor, w_hh: Tensor, dh: Tensor, dc: Tensor, da: Tensor) -> None:
    """Do what `time_loop.lstm_backward` does."""
    _launch(_lstm_backward, [gates, c, c[1:], dh.contiguous(), da], [dc], w_hh.T, dc.shape, backward=True)


def _launch(
    kernel: Any, sequences: Sequence[Tensor], others: Sequence[Tensor], w: Tensor, state_shape: Sequence[int], *,
    has_previous: bool = False, backward: bool = False,
) -> None:  # fmt: skip
    """Run `kernel` over all T steps. Each of the `sequences` is (T, N, ...); step t uses entry t.

    The kernel multiplies by `w` (G, K). `state_shape` is (N, H). `has_previous` says whether there is a state before
    the first step. With `backward`, the steps run from the last word to the first.
    """
    (rows, hidden), steps, w = state_shape, len(sequences[0]), w.contiguous()
    assert all(sequence.is_contiguous() for sequence in sequences)
    assert max(w.numel(), *(sequence.stride(0) for sequence in sequences)) < 2**31  # the kernels' offsets have 32 bits

    multiprocessors, memory = _limits(w.device)
    tile = next((tile for tile in _TILES if prod(_grid(tile, rows, hidden)) <= multiprocessors), _TILES[-1])
    grid = _grid(tile, rows, hidden)
    per_launch = steps if prod(grid) <= multiprocessors else 1
    loaded = (tile.rows + tile.columns * len(w) // hidden) * tile.depth * w.element_size()  # bytes per stage
    stages = max(1, min(_STAGES, (memory - _RESERVE) // loaded))
    counters = (torch.zeros if per_launch > 1 else torch.empty)(grid[1], dtype=torch.int32, device=w.device)
    with torch.cuda.device_of(w):
        for done in range(0, steps, per_launch):
            t = steps - 1 - done if backward else done
            kernel[grid](
                *(sequence[t:] if t else sequence for sequence in sequences), *others, w, counters,
                int(has_previous or done > 0), per_launch, rows, hidden,
                _precision(w), *tile[:3], num_warps=tile.warps, num_stages=stages,
                launch_cooperative_grid=per_launch > 1,  # guarantees that all programs run at the same time
            )  # fmt: skip


def _grid(tile: _Tile, rows: int, hidden: int) -> tuple[int, int]:
    return triton.cdiv(hidden, tile.columns), triton.cdiv(rows, tile.rows)


@cache
def _limits(device: torch.device) -> tuple[int, int]:
    """Return the number of multiprocessors and the bytes of shared memory of each; (0, 0) for Triton's interpreter."""
    if device.type == "cpu":
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin  # type: ignore[attr-defined]


def _precision(w: Tensor) -> str:
    """Return Triton's `input_precision`. For float32 it follows torch's setting; `tf32x3` reaches the highest."""
    if w.dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # For small x, use a series: 2 sigmoid(2 x) - 1 would cancel. The error of the series is below rounding.
    square = x * x
    series = x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return tl.where(square < 0.0025, series, 2 * _sigmoid(2 * x) - 1)


@triton.jit
def _load(pointers, mask):  # type: ignore[no-untyped-def]
    return tl.load(pointers, mask, 0).to(tl.float32)


@triton.jit
def _add_product(  # type: ignore[no-untyped-def]
    total, x, w, row, out, rows, outs, inputs, PRECISION: tl.constexpr, DEPTH: tl.constexpr
):
    """Return total + x[row] w[out]^T for x (rows, inputs) and w (outs, inputs)."""
    for first in range(0, inputs, DEPTH):
        k = first + tl.arange(0, DEPTH)
        x_part = tl.load(x + row[:, None] * inputs + k[None, :], (row < rows)[:, None] & (k < inputs)[None, :], 0)
        w_part = tl.load(w + out[None, :] * inputs + k[:, None], (out < outs)[None, :] & (k < inputs)[:, None], 0)
        total = tl.dot(x_part, w_part, total, input_precision=PRECISION)
    return total


@triton.jit
def _wait_for_others(counters, step, steps):  # type: ignore[no-untyped-def]
    """Unless `step` is the last, wait until all programs of these captions have done it and written its results."""
    if step + 1 < steps:
        counters += tl.program_id(1)
        tl.debug_barrier()
        tl.atomic_add(counters, 1, sem="release")
        while tl.atomic_add(counters, 0, sem="acquire") < (step + 1) * tl.num_programs(0):
            pass
        tl.debug_barrier()


@triton.jit
def _tile(rows, hidden, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the rows and columns of this program's tile, their offsets in a state (N, H), and the valid ones."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    offset = row[:, None] * hidden + column[None, :]
    return row, column, offset, (row < rows)[:, None] & (column < hidden)[None, :]


@triton.jit(do_not_specialize=["has_previous", "steps", "rows"])
def _rnn_forward(  # type: ignore[no-untyped-def]
    a, h, next_h, w, counters, has_previous, steps, rows, hidden,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, offset, mask = _tile(rows, hidden, ROWS, COLUMNS)
    size = rows * hidden
    for step in range(steps):
        total = _load(a + offset, mask)
        if has_previous + step > 0:
            total = _add_product(total, h, w, row, column, rows, hidden, hidden, PRECISION, DEPTH)
        tl.store(next_h + offset, _tanh(total), mask)
        a, h, next_h = a + size, h + size, next_h + size
        _wait_for_others(counters, step, steps)


@triton.jit(do_not_specialize=["has_previous", "steps", "rows"])
def _rnn_backward(  # type: ignore[no-untyped-def]
    next_h, dh, da, w, counters, has_previous, steps, rows, hidden,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, offset, mask = _tile(rows, hidden, ROWS, COLUMNS)
    size = rows * hidden
    for step in range(steps):
        dnext_h = _load(dh + offset, mask)
        if has_previous + step > 0:  # add the gradient from the next step
            dnext_h = _add_product(dnext_h, da + size, w, row, column, rows, hidden, hidden, PRECISION, DEPTH)
        out = _load(next_h + offset, mask)
        tl.store(da + offset, dnext_h * (1 - out * out), mask)
        next_h, dh, da = next_h - size, dh - size, da - size
        _wait_for_others(counters, step, steps)


@triton.jit(do_not_specialize=["has_previous", "steps", "rows"])
def _lstm_forward(  # type: ignore[no-untyped-def]
    gates, h, c, next_h, next_c, w, counters, has_previous, steps, rows, hidden,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, offset, mask = _tile(rows, hidden, ROWS, COLUMNS)
    size = rows * hidden
    i_offset = row[:, None] * 4 * hidden + column[None, :]
    f_offset, g_offset, o_offset = i_offset + hidden, i_offset + 2 * hidden, i_offset + 3 * hidden
    # One product for all gates of the tile. Its columns are i, f, g, o of the first unit, then of the next unit, and so
    # on. So the gates split without a copy.
    index = tl.arange(0, 4 * COLUMNS)
    unit = tl.program_id(0) * COLUMNS + index // 4
    out = tl.where(unit < hidden, index % 4 * hidden + unit, 4 * hidden)
    for step in range(steps):
        total = tl.full((ROWS, 4 * COLUMNS), 0.0, tl.float32)
        if has_previous + step > 0:
            total = _add_product(total, h, w, row, out, rows, 4 * hidden, hidden, PRECISION, DEPTH)
        i_and_g, f_and_o = tl.split(tl.reshape(total, (ROWS, COLUMNS, 2, 2)))
        i, g = tl.split(i_and_g)
        f, o = tl.split(f_and_o)
        i = _sigmoid(i + _load(gates + i_offset, mask))
        f = _sigmoid(f + _load(gates + f_offset, mask))
        g = _tanh(g + _load(gates + g_offset, mask))
        o = _sigmoid(o + _load(gates + o_offset, mask))
        c_t = f * _load(c + offset, mask) + i * g
        tl.store(gates + i_offset, i, mask)
        tl.store(gates + f_offset, f, mask)
        tl.store(gates + g_offset, g, mask)
        tl.store(gates + o_offset, o, mask)
        tl.store(next_c + offset, c_t, mask)
        tl.store(next_h + offset, o * _tanh(c_t), mask)
        gates, h, c, next_h, next_c = gates + 4 * size, h + size, c + size, next_h + size, next_c + size
        _wait_for_others(counters, step, steps)


@triton.jit(do_not_specialize=["has_previous", "steps", "rows"])
def _lstm_backward(  # type: ignore[no-untyped-def]
    gates, c, next_c, dh, da, dc, w, counters, has_previous, steps, rows, hidden,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row, column, offset, mask = _tile(rows, hidden, ROWS, COLUMNS)
    size = rows * hidden
    i_offset = row[:, None] * 4 * hidden + column[None, :]
    f_offset, g_offset, o_offset = i_offset + hidden, i_offset + 2 * hidden, i_offset + 3 * hidden
    for step in range(steps):
        dnext_h = _load(dh + offset, mask)
        if has_previous + step > 0:  # add the gradient from the next step
            dnext_h = _add_product(dnext_h, da + 4 * size, w, row, column, rows, hidden, 4 * hidden, PRECISION, DEPTH)
        i, f = _load(gates + i_offset, mask), _load(gates + f_offset, mask)
        g, o = _load(gates + g_offset, mask), _load(gates + o_offset, mask)
        tanh_c = _tanh(_load(next_c + offset, mask))
        dnext_c = _load(dc + offset, mask) + dnext_h * o * (1 - tanh_c * tanh_c)
        tl.store(da + i_offset, dnext_c * g * i * (1 - i), mask)
        tl.store(da + f_offset, dnext_c * _load(c + offset, mask) * f * (1 - f), mask)
        tl.store(da + g_offset, dnext_c * i * (1 - g * g), mask)
        tl.store(da + o_offset, dnext_h * tanh_c * o * (1 - o), mask)
        tl.store(dc + offset, dnext_c * f, mask)
        gates, c, next_c, dh, da = gates - 4 * size, c - size, next_c - size, dh - size, da - 4 * size
        _wait_for_others(counters, step, steps)
