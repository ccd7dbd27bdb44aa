"""`ScratchRNN` and `ScratchLSTM`: stand-ins for `torch.nn.RNN` and `torch.nn.LSTM` with a hand-written backward.

Of their constructor arguments they know those below; state dict (names, shapes, gate order) and results are the same,
and `batch_first` is always true.
The equations are those of `rnn` and `lstm`; what does not depend on the previous step is done for all steps
at once: the input projections before the loop, and the gradients of weights and inputs after it. Nothing is
multiplied by a state that was not given, which is zero, and no gradient is made for it.
Tensors are time-major inside, so that a step is one contiguous block. `products` has the matrix products outside of
the loop; the loop itself is that of `recurrence`, and on a GPU one kernel, that of `kernels`.
"""

import math
import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.cells import time_loop as recurrence
from lib.cells.autocast import apply_in_autocast
from lib.cells.products import project, weight_gradient

_AMPERE = (8, 0)  # the first whose matrix units know bfloat16 and TF32


class _RNNLayer(torch.autograd.Function):
    """x (T, N, D), h0 (N, H) or none, w_ih (H, D), w_hh (H, H), b (H,) -> h (T, N, H)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Tensor:
        a = project(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, H)
        h = _beginning_with(h0, a, w_hh)  # (T + 1, N, H)
        ctx.first = int(h0 is None)  # step that has a state before it
        _steps_of(a).rnn_forward(a, h, w_hh, ctx.first)
        ctx.save_for_backward(x, w_ih, w_hh, h)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h = ctx.saved_tensors
        da = torch.empty_like(h[1:])  # (T, N, H)
        dh0 = _steps_of(da).rnn_backward(h, w_hh, dh, da, to_h0=ctx.needs_input_grad[1])
        return _after_the_loop(ctx, da, x, h, w_ih, (dh0,))


class _LSTMLayer(torch.autograd.Function):
    """x (T, N, D), h0 and c0 (N, H) or none, w_ih (4H, D), w_hh (4H, H), b (4H,) -> h (T, N, H), last c (N, H)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor | None, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates = project(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, 4H): a, then i, f, g, o in place
        h, c = _beginning_with(h0, gates, w_hh), _beginning_with(c0, gates, w_hh)  # (T + 1, N, H)
        ctx.first = int(h0 is None)  # step that has a state before it
        _steps_of(gates).lstm_forward(gates, h, c, w_hh, ctx.first)
        ctx.save_for_backward(x, w_ih, w_hh, gates, h, c)
        return h[1:], c[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, dlast_c: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, h, c = ctx.saved_tensors
        # (T, N, 4H). The gates' own memory where no other backward pass will need them: touching as much again would
        # take longer than all that is computed in it.
        da = torch.empty_like(gates) if _graph_is_kept() else gates
        dc = dlast_c.clone(memory_format=torch.contiguous_format)
        dh0 = _steps_of(da).lstm_backward(gates, c, w_hh, dh, dc, da, to_h0=ctx.needs_input_grad[1])
        return _after_the_loop(ctx, da, x, h, w_ih, (dh0, dc if ctx.needs_input_grad[2] else None))


def _steps_of(a: Tensor) -> Any:
    """Who does the steps of a sequence that is on a's device and of its type: `kernels`, or `recurrence`."""
    # torch.compile makes kernels of torch's operations by itself.
    if not a.is_cuda or a.dtype == torch.float64 or torch.compiler.is_compiling() or not _triton_runs(a.device):
        return recurrence
    from lib.cells import triton_kernels as kernels

    return kernels


@cache
def _triton_runs(device: torch.device) -> bool:
    """If there is Triton, which torch brings on Linux, what it builds its launchers with, and a GPU for the kernels."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    found = find_spec("triton") is not None and compiler is not None and headers.is_file()
    return found and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= _AMPERE


def _beginning_with(state: Tensor | None, a: Tensor, w_hh: Tensor) -> Tensor:
    """Room for the states of all steps after the first, `state` or zero: (T + 1, N, H) for a (T, N, G), w_hh (G, H)."""
    states = a.new_empty(len(a) + 1, a.shape[1], w_hh.shape[1])
    states[0] = 0 if state is None else state
    return states


def _graph_is_kept() -> bool:
    """If the backward pass that runs now may be followed by another over the same graph (`retain_graph`)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def _after_the_loop(
    ctx: Any, da: Tensor, x: Tensor, h: Tensor, w_ih: Tensor, dstates: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of x, the initial states, w_ih, w_hh and b; all but the states' follow from da (T, N, G)."""
    dx = None
    if ctx.needs_input_grad[0]:
        dx = project(da.flatten(0, 1), w_ih.T).unflatten(0, x.shape[:2])
    if not any(ctx.needs_input_grad[-3:]):
        return dx, *dstates, None, None, None
    dw_ih = weight_gradient(da.flatten(0, 1), x.flatten(0, 1))
    dw_hh = weight_gradient(da[ctx.first :].flatten(0, 1), h[ctx.first : -1].flatten(0, 1))
    return dx, *dstates, dw_ih, dw_hh, da.sum((0, 1))


class _ScratchRecurrent(nn.Module):
    """Parameters, initialisation and the stack of layers, shared by both cells."""

    gates: int  # blocks of hidden_size rows in each weight
    layer: type[torch.autograd.Function]

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, batch_first: bool = True, dropout: float = 0.0
    ):
        if not batch_first:
            raise ValueError("only batch_first=True is supported: give x as (N, T, D)")
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.dropout = num_layers, dropout
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            columns = hidden_size if layer else input_size
            for name, shape in (
                ("weight_ih", (rows, columns)),
                ("weight_hh", (rows, hidden_size)),
                ("bias_ih", (rows,)),
                ("bias_hh", (rows,)),
            ):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(hidden_size), as torch.nn does, drawn in the same order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """w_ih, w_hh and the sum of the two biases (torch keeps two; one would do)."""
        w_ih, w_hh, b_ih, b_hh = (
            getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return w_ih, w_hh, b_ih + b_hh

    def _run(self, number: int, x: Tensor, *states: Tensor | None) -> Any:
        """One layer, time-major, in the precision of autocast where that is on: within it, all is of one type."""
        return apply_in_autocast(self.layer, x, *states, *self._weights(number))

    def _between(self, x: Tensor, layer: int) -> Tensor:
        """Dropout between layers, none after the last."""
        if layer == self.num_layers - 1:
            return x
        return nn.functional.dropout(x, self.dropout, self.training)


class ScratchRNN(_ScratchRecurrent):
    """Stands in for `torch.nn.RNN(..., nonlinearity="tanh", batch_first=True)`."""

    gates = 1
    layer = _RNNLayer

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, T, D), h0 (L, N, H) or None for zeros -> h (N, T, H) of the last layer, last h (L, N, H)."""
        initial = [None] * self.num_layers if h0 is None else h0
        h, lasts = x.transpose(0, 1).contiguous(), []  # (T, N, D)
        for layer in range(self.num_layers):
            h = self._run(layer, h, initial[layer])
            lasts.append(h[-1])
            h = self._between(h, layer)
        return h.transpose(0, 1), _stacked(lasts)


class ScratchLSTM(_ScratchRecurrent):
    """Stands in for `torch.nn.LSTM(..., batch_first=True)`."""

    gates = 4
    layer = _LSTMLayer

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, T, D), state (h0, c0), each (L, N, H), or None for zeros -> h (N, T, H), (last h, last c)."""
        h0, c0 = ([None] * self.num_layers,) * 2 if state is None else state
        h, last_h, last_c = x.transpose(0, 1).contiguous(), [], []  # (T, N, D)
        for layer in range(self.num_layers):
            h, c = self._run(layer, h, h0[layer], c0[layer])
            last_h.append(h[-1])
            last_c.append(c)
            h = self._between(h, layer)
        return h.transpose(0, 1), (_stacked(last_h), _stacked(last_c))


def _stacked(states: list[Tensor]) -> Tensor:
    """The states of all layers, (N, H) each, as one (L, N, H), and without a copy where there is one layer alone."""
    return torch.stack(states) if len(states) > 1 else states[0][None]
