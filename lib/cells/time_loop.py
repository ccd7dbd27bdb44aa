"""A sequence step by step: what has to wait for the step before, by torch's operations, in place.

`kernels` has the same four functions for GPUs. Equations and names are those of `rnn` and `lstm`; all is time-major.
The gates of all steps are cut into views once, and not in every step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.cells.products import accumulator, adder, after_sigmoid, before_sigmoid, tanh, tanh_is_by_sigmoid

# The derivatives of tanh and sigmoid, times a gradient, from their values: dout (1 - out^2) and dout out (1 - out),
# in one pass and in place.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def rnn_forward(a: Tensor, h: Tensor, w_hh: Tensor, first: int) -> None:
    """Writes h[1:], from h[0] and a (T, N, H), which it writes over. h (T + 1, N, H), w_hh (H, H).

    `first` is the first step that has a state before it: 1 where h[0] is zero, as no state was given, else 0.
    """
    add_recurrent = accumulator(a, h[:-1], w_hh)
    hs, a_of = h.unbind(), a.unbind()
    for t in range(len(a)):
        if t >= first:
            add_recurrent(t)
        tanh(a_of[t], out=hs[t + 1])


def rnn_backward(h: Tensor, w_hh: Tensor, dh: Tensor, da: Tensor, *, to_h0: bool) -> Tensor | None:
    """Writes da (T, N, H), from dh (T, N, H), what reaches h[1:] from above. With `to_h0` it gives h[0]'s gradient."""
    hs, das = h.unbind(), da.unbind()
    return _through_time(dh, da, w_hh, lambda t, dh_t: _tanh_backward(dh_t, hs[t + 1], grad_input=das[t]), to_h0)


def lstm_forward(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, first: int) -> None:
    """Writes i, f, g and o over a, which `gates` (T, N, 4H) holds, and h[1:] and c[1:], from h[0] and c[0].

    h and c (T + 1, N, H), w_hh (4H, H); `first` as above.
    """
    add_recurrent = accumulator(gates, h[:-1], w_hh)
    whole, hs, cs = gates.unbind(), h.unbind(), c.unbind()
    i_and_f, blocks = _i_and_f(gates), _blocks(gates)
    one_sigmoid = tanh_is_by_sigmoid(gates)
    for t in range(len(gates)):
        if t >= first:
            add_recurrent(t)
        i, f, g, o = blocks[t]
        if one_sigmoid:  # torch gives a call this long to all threads, each block's alone to one
            before_sigmoid(g, out=g), whole[t].sigmoid_(), after_sigmoid(g, out=g)
        else:
            i_and_f[t].sigmoid_(), tanh(g, out=g), o.sigmoid_()
        torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
        tanh(cs[t + 1], out=hs[t + 1]).mul_(o)


def lstm_backward(
    gates: Tensor, c: Tensor, w_hh: Tensor, dh: Tensor, dc: Tensor, da: Tensor, *, to_h0: bool
) -> Tensor | None:
    """Writes da (T, N, 4H), which may be `gates`, and over dc (N, H), the last c's gradient, c[0]'s.

    dh (T, N, H) is what reaches h[1:] from above; with `to_h0` it also gives h[0]'s gradient.
    """
    cs = c.unbind()
    blocks, da_blocks = _blocks(gates), _blocks(da)
    i_and_f, da_i_and_f = _i_and_f(gates), _i_and_f(da)
    tanh_cs = tanh(c[1:], out=torch.empty_like(c[1:])).unbind()  # made again, for all steps in one call, and not kept
    product, di_and_df = torch.empty_like(dc), torch.empty_like(i_and_f[0])
    di, df = di_and_df.chunk(2, dim=-1)

    def step(t: int, dh_t: Tensor) -> None:
        (i, f, g, o), (_, _, da_g, da_o), tanh_c = blocks[t], da_blocks[t], tanh_cs[t]
        torch.mul(dh_t, o, out=product)
        dc.add_(_tanh_backward(product, tanh_c, grad_input=product))
        # A gate is read for the last time where its da, which may be the same memory, is written.
        _sigmoid_backward(torch.mul(dh_t, tanh_c, out=product), o, grad_input=da_o)
        torch.mul(dc, g, out=di)
        torch.mul(dc, cs[t], out=df)
        _tanh_backward(torch.mul(dc, i, out=product), g, grad_input=da_g)
        dc.mul_(f)
        _sigmoid_backward(di_and_df, i_and_f[t], grad_input=da_i_and_f[t])

    return _through_time(dh, da, w_hh, step, to_h0)


def _through_time(
    dh: Tensor, da: Tensor, w_hh: Tensor, step: Callable[[int, Tensor], object], to_h0: bool
) -> Tensor | None:
    """Runs `step` from the last to the first, each given all that reaches its h (N, H): from above, dh (T, N, H), and
    from the step after, through da (T, N, G), which it writes. The gradient of h[0], where that is asked."""
    above = torch.zeros_like(dh[0]), *dh[:-1].unbind()
    dh_before = adder(above, da, w_hh)
    dh_t = dh[-1].contiguous()
    for t in reversed(range(len(da))):
        step(t, dh_t)
        if t or to_h0:
            dh_t = dh_before(t)
    return dh_t if to_h0 else None


def _blocks(gates: Tensor) -> list[tuple[Tensor, ...]]:
    """The gates (T, N, 4H) step by step: i, f, g and o, views of (N, H) each."""
    return list(zip(*(block.unbind() for block in gates.chunk(4, dim=-1)), strict=True))


def _i_and_f(gates: Tensor) -> tuple[Tensor, ...]:
    """The first two blocks of each step, which lie side by side: views of (N, 2H)."""
    return gates.chunk(2, dim=-1)[0].unbind()
