"""`ScratchRNN` and `ScratchLSTM` replace `torch.nn.RNN` and `torch.nn.LSTM`, with a hand-written backward pass.

They take the constructor arguments listed below; `batch_first` is always true. The state dict (names, shapes, gate
order) and the results equal those of torch.

The equations are those of `rnn` and `lstm`. Work that does not depend on the previous step is done for all steps at
once: input projections before the loop over the steps, gradients of weights and inputs after the loop. A missing
initial state is zero: its product is skipped, and it gets no gradient. Inside, tensors are time-major, so that a step
is one contiguous block. The loop is in `time_loop`; on a GPU, it is one kernel, in `triton_kernels`.
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

from lib.cells import time_loop
from lib.cells.products import product, weight_gradient

_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # per layer; names get the suffix _l0, _l1, ...
_AMPERE = (8, 0)  # compute capability of the first GPUs that multiply bfloat16 and TF32


class _RNNLayer(torch.autograd.Function):
    """One RNN layer. x (T, N, D), h0 (N, H) or None, w_ih (H, D), w_hh (H, H), b (H,) -> (h (T, N, H),)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> tuple[Tensor]:
        a = product(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, H)
        h = _states_from(h0, a, w_hh)  # (T + 1, N, H)
        ctx.has_h0 = h0 is not None
        _loop_for(a).rnn_forward(a, h, w_hh, has_h0=ctx.has_h0)
        ctx.save_for_backward(x, w_ih, w_hh, h)
        return (h[1:],)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h = ctx.saved_tensors
        da = torch.empty_like(h[1:])  # (T, N, H)
        _loop_for(da).rnn_backward(h, w_hh, dh, da)
        return _gradients(ctx, da, x, h, w_ih, w_hh)


class _LSTMLayer(torch.autograd.Function):
    """One LSTM layer.

    x (T, N, D), h0 and c0 (N, H) or None, w_ih (4H, D), w_hh (4H, H), b (4H,) -> h (T, N, H), last c (N, H).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor | None, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates = product(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, 4H): first `a`, later i, f, g, o
        h, c = _states_from(h0, gates, w_hh), _states_from(c0, gates, w_hh)  # (T + 1, N, H)
        ctx.has_h0 = h0 is not None
        _loop_for(gates).lstm_forward(gates, h, c, w_hh, has_h0=ctx.has_h0)
        ctx.save_for_backward(x, w_ih, w_hh, gates, h, c)
        return h[1:], c[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, dlast_c: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, h, c = ctx.saved_tensors
        # (T, N, 4H). Write `da` over the gates: a new tensor makes forward and backward 3% to 5% slower. If the graph
        # is kept (`retain_graph`), another backward pass may need the gates, so allocate a new tensor.
        graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph()
        da = torch.empty_like(gates) if graph_is_kept else gates
        dc = dlast_c.clone(memory_format=torch.contiguous_format)
        _loop_for(da).lstm_backward(gates, c, w_hh, dh, dc, da)
        return _gradients(ctx, da, x, h, w_ih, w_hh, dc if ctx.needs_input_grad[2] else None)


def _loop_for(a: Tensor) -> Any:
    """Return the module whose loop suits the device and dtype of `a`: `triton_kernels` or `time_loop`."""
    # torch.compile makes its own kernels, but only from torch operations.
    if not a.is_cuda or a.dtype == torch.float64 or torch.compiler.is_compiling() or not _triton_runs(a.device):
        return time_loop
    from lib.cells import triton_kernels

    return triton_kernels


@cache
def _triton_runs(device: torch.device) -> bool:
    """Return whether Triton, a C compiler, the Python headers and a recent NVIDIA GPU are all present."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    can_compile = find_spec("triton") is not None and compiler is not None and headers.is_file()
    return can_compile and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= _AMPERE


def _states_from(initial: Tensor | None, a: Tensor, w_hh: Tensor) -> Tensor:
    """Allocate all states, (T + 1, N, H), and set the first to `initial` or zero. a (T, N, G), w_hh (G, H)."""
    states = a.new_empty(len(a) + 1, a.shape[1], w_hh.shape[1])
    states[0] = 0 if initial is None else initial
    return states


def _gradients(
    ctx: Any, da: Tensor, x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, *dc0: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, the initial states, w_ih, w_hh and b. da (T, N, G)."""
    da_rows, skipped = da.flatten(0, 1), 0 if ctx.has_h0 else 1  # without h0, step 0 adds nothing to dw_hh
    dx = product(da_rows, w_ih.T).unflatten(0, x.shape[:2]) if ctx.needs_input_grad[0] else None
    dh0 = product(da[0], w_hh.T) if ctx.needs_input_grad[1] else None
    dw_ih = weight_gradient(da_rows, x.flatten(0, 1))
    dw_hh = weight_gradient(da[skipped:].flatten(0, 1), h[skipped:-1].flatten(0, 1))
    return dx, dh0, *dc0, dw_ih, dw_hh, da_rows.sum(0)


class _ScratchRecurrent(nn.Module):
    """What both cells share: parameters, initialisation and the stack of layers."""

    gates: int  # number of blocks of hidden_size rows in each weight
    layer: type[torch.autograd.Function]

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, batch_first: bool = True, dropout: float = 0.0
    ):
        if not batch_first:
            raise ValueError("batch_first=False is not supported: use batch_first=True and give x as (N, T, D)")
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.dropout = num_layers, dropout
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            shapes = (rows, hidden_size if layer else input_size), (rows, hidden_size), (rows,), (rows,)
            for name, shape in zip(_PARAMETERS, shapes, strict=True):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly from +-1/sqrt(hidden_size), in the same order as torch.nn."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def _run(self, x: Tensor, *states: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Run all layers. x (N, T, D), each state (L, N, H) or None -> h (N, T, H), last states (L, N, H)."""
        h, lasts = x.transpose(0, 1).contiguous(), []  # (T, N, D)
        for layer in range(self.num_layers):
            h, *last_c = self._apply_layer(layer, h, *(None if state is None else state[layer] for state in states))
            lasts.append((h[-1], *last_c))
            if layer < self.num_layers - 1:
                h = nn.functional.dropout(h, self.dropout, self.training)
        stacked = [torch.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*lasts, strict=True)]
        return h.transpose(0, 1), stacked

    def _apply_layer(self, layer: int, x: Tensor, *states: Tensor | None) -> Any:
        """Run one layer. If autocast is on, cast to its precision, because torch casts only for its own functions."""
        w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{name}_l{layer}") for name in _PARAMETERS)
        tensors, device = (x, *states, w_ih, w_hh, b_ih + b_hh), x.device.type
        if not torch.is_autocast_enabled(device):
            return self.layer.apply(*tensors)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self.layer.apply(*(None if tensor is None else tensor.to(dtype) for tensor in tensors))


class ScratchRNN(_ScratchRecurrent):
    """Drop-in replacement for `torch.nn.RNN(..., nonlinearity="tanh", batch_first=True)`."""

    gates = 1
    layer = _RNNLayer

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, T, D), h0 (L, N, H) or None for zeros -> h (N, T, H) of the last layer, last h (L, N, H)."""
        h, (last_h,) = self._run(x, h0)
        return h, last_h


class ScratchLSTM(_ScratchRecurrent):
    """Drop-in replacement for `torch.nn.LSTM(..., batch_first=True)`."""

    gates = 4
    layer = _LSTMLayer

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, T, D), state (h0, c0), each (L, N, H), or None for zeros -> h (N, T, H), (last h, last c)."""
        h, (last_h, last_c) = self._run(x, *((None, None) if state is None else state))
        return h, (last_h, last_c)
