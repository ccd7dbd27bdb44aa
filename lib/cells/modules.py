"""`ScratchRNN` and `ScratchLSTM`: stand-ins for `torch.nn.RNN` and `torch.nn.LSTM` with a hand-written backward.

Same constructor arguments, state dict (names, shapes, gate order) and results; `batch_first` is always true.
The equations are those of `rnn` and `lstm`; what does not depend on the previous step is done for all steps
at once: the input projections before the loop, and the gradients of weights and inputs after it. Nothing is
multiplied by a state that was not given, which is zero, and no gradient is made for it.
Tensors are time-major inside, so that a step is one contiguous block. `products` has the matrix products, and
`elementwise` what an LSTM does between them.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.cells.autocast import apply_in_autocast
from lib.cells.elementwise import gates_backward, gates_forward, tanh_backward
from lib.cells.products import accumulator, adder, project, tanh, weight_gradient


class _RNNLayer(torch.autograd.Function):
    """x (T, N, D), h0 (N, H) or none, w_ih (H, D), w_hh (H, H), b (H,) -> h (T, N, H)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Tensor:
        a = project(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, H)
        h = _beginning_with(h0, a, w_hh)  # (T + 1, N, H)
        add_recurrent = accumulator(a, h[:-1], w_hh)
        hs, a_of = h.unbind(), a.unbind()
        ctx.first = int(h0 is None)  # step that has a state before it
        for t in range(len(x)):
            if t >= ctx.first:
                add_recurrent(t)
            tanh(a_of[t], out=hs[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, h)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h = ctx.saved_tensors
        da = torch.empty_like(h[1:])  # (T, N, H)
        hs, das = h.unbind(), da.unbind()
        dh0 = _through_time(ctx, dh, da, w_hh, lambda t, dh_t: tanh_backward(dh_t, hs[t + 1], grad_input=das[t]))
        return _after_the_loop(ctx, da, x, h, w_ih, (dh0,))


class _LSTMLayer(torch.autograd.Function):
    """x (T, N, D), h0 and c0 (N, H) or none, w_ih (4H, D), w_hh (4H, H), b (4H,) -> h (T, N, H), last c (N, H)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor | None, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates = project(x.flatten(0, 1), w_ih, b).unflatten(0, x.shape[:2])  # (T, N, 4H): a, then i, f, g, o in place
        h, c = _beginning_with(h0, gates, w_hh), _beginning_with(c0, gates, w_hh)  # (T + 1, N, H)
        add_recurrent, step = accumulator(gates, h[:-1], w_hh), gates_forward(gates, h, c)
        ctx.first = int(h0 is None)  # step that has a state before it
        for t in range(len(x)):
            if t >= ctx.first:
                add_recurrent(t)
            step(t)
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
        dh0 = _through_time(ctx, dh, da, w_hh, gates_backward(gates, c, dc, da))
        return _after_the_loop(ctx, da, x, h, w_ih, (dh0, dc if ctx.needs_input_grad[2] else None))


def _beginning_with(state: Tensor | None, a: Tensor, w_hh: Tensor) -> Tensor:
    """Room for the states of all steps after the first, `state` or zero: (T + 1, N, H) for a (T, N, G), w_hh (G, H)."""
    states = a.new_empty(len(a) + 1, a.shape[1], w_hh.shape[1])
    states[0] = 0 if state is None else state
    return states


def _through_time(
    ctx: Any, dh: Tensor, da: Tensor, w_hh: Tensor, step: Callable[[int, Tensor], object]
) -> Tensor | None:
    """Runs `step` from the last to the first, each given all that reaches its h (N, H): from above, dh (T, N, H), and
    from the step after, through da (T, N, G), which it writes. The gradient of h0, where one is needed."""
    above = torch.zeros_like(dh[0]), *dh[:-1].unbind()
    dh_before = adder(above, da, w_hh)
    dh_t = dh[-1].contiguous()
    for t in reversed(range(len(da))):
        step(t, dh_t)
        if t or ctx.needs_input_grad[1]:
            dh_t = dh_before(t)
    return dh_t if ctx.needs_input_grad[1] else None


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
        return h.transpose(0, 1), torch.stack(lasts)


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
        return h.transpose(0, 1), (torch.stack(last_h), torch.stack(last_c))
