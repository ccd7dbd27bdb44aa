"""The vanilla RNN (Elman 1990), forward and backward.

    a_t = x_t Wx + h_{t-1} Wh + b
    h_t = tanh(a_t)

        h_{t-1} ---> [ Wh ] ---+
                               +--> a_t --> tanh --> h_t ---> next step, and out
        x_t -------> [ Wx ] ---+
                       b ------+

Shapes: N captions, T steps, D inputs, H hidden units; x (N, D), h (N, H), Wx (D, H), Wh (H, H), b (H,).

Backward. dh_t is the gradient of h_t from the output plus that from step t + 1; tanh'(a) = 1 - tanh(a)^2 = 1 - h^2:

    da_t = dh_t * (1 - h_t^2)
    dx_t = da_t Wx^T      dh_{t-1} = da_t Wh^T
    dWx += x_t^T da_t     dWh += h_{t-1}^T da_t     db += sum_n da_t

The gradient of h_{t-k} is a product of k factors (1 - h^2) Wh^T, so it shrinks or grows exponentially with k.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RNNStepCache(NamedTuple):
    """The tensors that the backward pass of one step needs."""

    x: Tensor  # (N, D)
    prev_h: Tensor  # (N, H)
    next_h: Tensor  # (N, H)
    Wx: Tensor  # (D, H)
    Wh: Tensor  # (H, H)


def rnn_step_forward(x: Tensor, prev_h: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, RNNStepCache]:
    """Run a step. x (N, D), prev_h (N, H), Wx (D, H), Wh (H, H), b (H,) -> next_h (N, H), cache."""
    next_h = torch.tanh(x @ Wx + prev_h @ Wh + b)  # (N, H)
    return next_h, RNNStepCache(x, prev_h, next_h, Wx, Wh)


def rnn_step_backward(dnext_h: Tensor, cache: RNNStepCache) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of a step. dnext_h (N, H) -> dx (N, D), dprev_h (N, H), dWx (D, H), dWh (H, H), db (H,)."""
    x, prev_h, next_h, Wx, Wh = cache
    da = dnext_h * (1 - next_h**2)  # (N, H)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(0)


def rnn_forward(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, list[RNNStepCache]]:
    """Run a whole sequence. x (N, T, D), h0 (N, H) -> h (N, T, H), cache."""
    hs, caches, h = [], [], h0
    for x_t in x.unbind(1):
        h, cache = rnn_step_forward(x_t, h, Wx, Wh, b)
        hs.append(h)
        caches.append(cache)
    return torch.stack(hs, dim=1), caches


def rnn_backward(dh: Tensor, cache: list[RNNStepCache]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through time. dh (N, T, H) -> dx (N, T, D), dh0 (N, H), dWx (D, H), dWh (H, H), db (H,).

    `dh[:, t]` is the gradient of h_t from the output only; the gradient from later steps is added here.
    """
    last = cache[-1]
    dx, dprev_h = [], torch.zeros_like(last.next_h)
    dWx, dWh, db = torch.zeros_like(last.Wx), torch.zeros_like(last.Wh), torch.zeros_like(last.Wx[0])
    for dh_t, step in zip(reversed(dh.unbind(1)), reversed(cache), strict=True):
        dx_t, dprev_h, dWx_t, dWh_t, db_t = rnn_step_backward(dh_t + dprev_h, step)
        dx.append(dx_t)
        dWx, dWh, db = dWx + dWx_t, dWh + dWh_t, db + db_t
    return torch.stack(dx[::-1], dim=1), dprev_h, dWx, dWh, db
