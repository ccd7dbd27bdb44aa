"""`ScratchRNN` and `ScratchLSTM`: stand-ins for `torch.nn.RNN` and `torch.nn.LSTM` with a hand-written backward.

Same constructor arguments, state dict (names, shapes, gate order) and results; `batch_first` is always true.
The equations are those of `rnn` and `lstm`; what does not depend on the previous step is done for all steps
at once: the input projections before the loop, and the gradients of weights and inputs after it.
Tensors are time-major inside, so that a step is one contiguous block.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RNNLayer(torch.autograd.Function):
    """x (T, N, D), h0 (N, H), w_ih (H, D), w_hh (H, H), b (H,) -> h (T, N, H)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Tensor:
        h = torch.addmm(b, x.flatten(0, 1), w_ih.T).unflatten(0, x.shape[:2])  # (T, N, H): a, then h in place
        previous = h0
        for h_t in h:
            previous = h_t.addmm_(previous, w_hh.T).tanh_()
        ctx.save_for_backward(x, h0, w_ih, w_hh, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, ...]:
        x, h0, w_ih, w_hh, h = ctx.saved_tensors
        da = 1 - h * h  # (T, N, H): tanh', then da in place
        dprevious = torch.zeros_like(h0)
        for t in reversed(range(len(x))):
            dprevious = da[t].mul_(dh[t] + dprevious) @ w_hh
        return _gradients(da, x, h0, h, w_ih, dprevious)


class _LSTMLayer(torch.autograd.Function):
    """x (T, N, D), h0 and c0 (N, H), w_ih (4H, D), w_hh (4H, H), b (4H,) -> h (T, N, H), last c (N, H)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates = torch.addmm(b, x.flatten(0, 1), w_ih.T).unflatten(0, x.shape[:2])  # (T, N, 4H)
        h = gates.new_empty(*x.shape[:2], h0.shape[1])  # (T, N, H)
        c = torch.empty_like(h)
        previous_h, previous_c = h0, c0
        for gates_t, h_t, c_t in zip(gates, h, c, strict=True):
            gates_t.addmm_(previous_h, w_hh.T)
            i, f, g, o = gates_t.chunk(4, dim=1)  # views, each (N, H)
            i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
            torch.addcmul(f * previous_c, i, g, out=c_t)
            torch.mul(o, c_t.tanh(), out=h_t)
            previous_h, previous_c = h_t, c_t
        ctx.save_for_backward(x, h0, c0, w_ih, w_hh, gates, h, c)
        return h, previous_c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, dlast_c: Tensor) -> tuple[Tensor, ...]:
        x, h0, c0, w_ih, w_hh, gates, h, c = ctx.saved_tensors
        da = torch.empty_like(gates)  # (T, N, 4H)
        dprevious_h, dc = torch.zeros_like(h0), dlast_c
        for t in reversed(range(len(x))):
            i, f, g, o = gates[t].chunk(4, dim=1)
            da_i, da_f, da_g, da_o = da[t].chunk(4, dim=1)
            dh_t = dh[t] + dprevious_h
            tanh_c = c[t].tanh()
            dc = dc + dh_t * o * (1 - tanh_c * tanh_c)
            torch.mul(dc * g, i * (1 - i), out=da_i)
            torch.mul(dc * (c[t - 1] if t else c0), f * (1 - f), out=da_f)
            torch.mul(dc * i, 1 - g * g, out=da_g)
            torch.mul(dh_t * tanh_c, o * (1 - o), out=da_o)
            dc = dc * f
            dprevious_h = da[t] @ w_hh
        dx, dh0, dw_ih, dw_hh, db = _gradients(da, x, h0, h, w_ih, dprevious_h)
        return dx, dh0, dc, dw_ih, dw_hh, db


def _gradients(
    da: Tensor, x: Tensor, h0: Tensor, h: Tensor, w_ih: Tensor, dh0: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All that follows from da (T, N, G) without a loop: dx (T, N, D), dh0, dw_ih (G, D), dw_hh (G, H), db (G,)."""
    flat = da.flatten(0, 1)  # (TN, G)
    previous_h = torch.cat([h0[None], h[:-1]])  # (T, N, H)
    return da @ w_ih, dh0, flat.T @ x.flatten(0, 1), flat.T @ previous_h.flatten(0, 1), flat.sum(0)


class _ScratchRecurrent(nn.Module):
    """Parameters, initialisation and the stack of layers, shared by both cells."""

    gates: int  # blocks of hidden_size rows in each weight

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

    def _zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.num_layers, x.shape[0], self.hidden_size)  # (L, N, H)

    def _between(self, x: Tensor, layer: int) -> Tensor:
        """Dropout between layers, none after the last."""
        if layer == self.num_layers - 1:
            return x
        return nn.functional.dropout(x, self.dropout, self.training)


class ScratchRNN(_ScratchRecurrent):
    """Stands in for `torch.nn.RNN(..., nonlinearity="tanh", batch_first=True)`."""

    gates = 1

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, T, D), h0 (L, N, H) or None for zeros -> h (N, T, H) of the last layer, last h (L, N, H)."""
        h0 = self._zeros(x) if h0 is None else h0
        h, lasts = x.transpose(0, 1).contiguous(), []  # (T, N, D)
        for layer in range(self.num_layers):
            h = _RNNLayer.apply(h, h0[layer], *self._weights(layer))
            lasts.append(h[-1])
            h = self._between(h, layer)
        return h.transpose(0, 1), torch.stack(lasts)


class ScratchLSTM(_ScratchRecurrent):
    """Stands in for `torch.nn.LSTM(..., batch_first=True)`."""

    gates = 4

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, T, D), state (h0, c0), each (L, N, H), or None for zeros -> h (N, T, H), (last h, last c)."""
        h0, c0 = (self._zeros(x), self._zeros(x)) if state is None else state
        h, last_h, last_c = x.transpose(0, 1).contiguous(), [], []  # (T, N, D)
        for layer in range(self.num_layers):
            h, c = _LSTMLayer.apply(h, h0[layer], c0[layer], *self._weights(layer))
            last_h.append(h[-1])
            last_c.append(c)
            h = self._between(h, layer)
        return h.transpose(0, 1), (torch.stack(last_h), torch.stack(last_c))
