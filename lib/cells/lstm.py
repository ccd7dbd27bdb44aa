"""The LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), forward and backward.

    a_t = x_t Wx + h_{t-1} Wh + b                      four blocks of H columns: i, f, g, o (torch's order)
    i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

        c_{t-1} -----> (*) -----------------> (+) -----------------+------> c_t
                        ^                      ^                   |
                        f                    i * g               tanh
                        |                      |                   |
        x_t, h_{t-1} -->[ a_t ]----------------+-------- o -----> (*) ----> h_t

Shapes: N captions, T steps, D inputs, H hidden units; x (N, D), h and c (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,).

Backward. dh and dc are the gradients of h_t and c_t; sigmoid'(a) = s (1 - s), s = sigmoid(a); tanh'(a) = 1 - tanh(a)^2:

    dc += dh * o * (1 - tanh(c_t)^2)                   through h_t = o * tanh(c_t)
    da_o = dh * tanh(c_t) * o (1 - o)
    da_i = dc * g * i (1 - i)     da_f = dc * c_{t-1} * f (1 - f)     da_g = dc * i * (1 - g^2)
    dc_{t-1} = dc * f             dx_t = da Wx^T                      dh_{t-1} = da Wh^T
    dWx += x_t^T da               dWh += h_{t-1}^T da                 db += sum_n da

From c_t to c_{t-1}, the gradient is multiplied by f only, not by a matrix or tanh'. If f is near 1, the gradient stays
large over many steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LSTMStepCache(NamedTuple):
    """The tensors that the backward pass of one step needs."""

    x: Tensor  # (N, D)
    prev_h: Tensor  # (N, H)
    prev_c: Tensor  # (N, H)
    gates: tuple[Tensor, Tensor, Tensor, Tensor]  # i, f, g, o, each (N, H)
    next_c: Tensor  # (N, H)
    Wx: Tensor  # (D, 4H)
    Wh: Tensor  # (H, 4H)


def lstm_step_forward(
    x: Tensor, prev_h: Tensor, prev_c: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, LSTMStepCache]:
    """Run a step. x (N, D), prev_h, prev_c (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,) -> next_h, next_c (N, H), cache."""
    a_i, a_f, a_g, a_o = (x @ Wx + prev_h @ Wh + b).chunk(4, dim=1)  # each (N, H)
    i, f, g, o = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.tanh(a_g), torch.sigmoid(a_o)
    next_c = f * prev_c + i * g
    next_h = o * torch.tanh(next_c)
    return next_h, next_c, LSTMStepCache(x, prev_h, prev_c, (i, f, g, o), next_c, Wx, Wh)


def lstm_step_backward(
    dnext_h: Tensor, dnext_c: Tensor, cache: LSTMStepCache
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of one step. dnext_h, dnext_c (N, H) -> dx, dprev_h, dprev_c, dWx, dWh, db."""
    x, prev_h, prev_c, (i, f, g, o), next_c, Wx, Wh = cache
    tanh_c = torch.tanh(next_c)
    dc = dnext_c + dnext_h * o * (1 - tanh_c**2)
    da = torch.cat(
        [
            dc * g * i * (1 - i),
            dc * prev_c * f * (1 - f),
            dc * i * (1 - g**2),
            dnext_h * tanh_c * o * (1 - o),
        ],
        dim=1,
    )  # (N, 4H)
    return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, prev_h.T @ da, da.sum(0)


def lstm_forward(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, list[LSTMStepCache]]:
    """Run a whole sequence from c0 = 0. x (N, T, D), h0 (N, H) -> h (N, T, H), cache."""
    hs, caches, h, c = [], [], h0, torch.zeros_like(h0)
    for x_t in x.unbind(1):
        h, c, cache = lstm_step_forward(x_t, h, c, Wx, Wh, b)
        hs.append(h)
        caches.append(cache)
    return torch.stack(hs, dim=1), caches


def lstm_backward(dh: Tensor, cache: list[LSTMStepCache]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through time. dh (N, T, H) -> dx (N, T, D), dh0 (N, H), dWx (D, 4H), dWh (H, 4H), db (4H,).

    `dh[:, t]` is the gradient of h_t from the output only; the gradient from later steps is added here.
    """
    last = cache[-1]
    dx, dprev_h, dprev_c = [], torch.zeros_like(last.next_c), torch.zeros_like(last.next_c)
    dWx, dWh, db = torch.zeros_like(last.Wx), torch.zeros_like(last.Wh), torch.zeros_like(last.Wx[0])
    for dh_t, step in zip(reversed(dh.unbind(1)), reversed(cache), strict=True):
        dx_t, dprev_h, dprev_c, dWx_t, dWh_t, db_t = lstm_step_backward(dh_t + dprev_h, dprev_c, step)
        dx.append(dx_t)
        dWx, dWh, db = dWx + dWx_t, dWh + dWh_t, db + db_t
    return torch.stack(dx[::-1], dim=1), dprev_h, dWx, dWh, db
