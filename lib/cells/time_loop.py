"""The loop over the steps of a sequence, with in-place torch operations.

This module does only the work that needs the previous step. `triton_kernels` has the same four functions for GPUs.
Equations and names are those of `rnn` and `lstm`; tensors are time-major. Views of all steps are made once, before the
loop.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.cells.products import add_product, tanh

# Write dout (1 - out^2) and dout out (1 - out) to `grad_input`, in one pass.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def rnn_forward(a: Tensor, h: Tensor, w_hh: Tensor, *, has_h0: bool) -> None:
    """Compute h[1:] from h[0] and `a` (T, N, H), and overwrite `a`. h (T + 1, N, H), w_hh (H, H).

    Without `has_h0`, h[0] is zero and its product is skipped.
    """
    hs = h.unbind()
    for t, a_t in enumerate(a.unbind()):
        if t or has_h0:
            add_product(a_t, hs[t], w_hh)
        tanh(a_t, out=hs[t + 1])


def rnn_backward(h: Tensor, w_hh: Tensor, dh: Tensor, da: Tensor) -> None:
    """Compute `da` (T, N, H) from `dh` (T, N, H), the gradient of the output h[1:]."""
    hs, das = h.unbind(), da.unbind()

    def step(t: int, dh_t: Tensor) -> None:
        _tanh_backward(dh_t, hs[t + 1], grad_input=das[t])

    _backward_through_time(dh, da, w_hh, step)


def lstm_forward(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, *, has_h0: bool) -> None:
    """Compute h[1:], c[1:] and the gates i, f, g, o from h[0], c[0] and `a`.

    `gates` (T, N, 4H) holds `a` at first and the gates at the end; h and c (T + 1, N, H), w_hh (4H, H). Without
    `has_h0`, h[0] is zero and its product is skipped.
    """
    hs, cs, blocks = h.unbind(), c.unbind(), _blocks(gates)
    for t, a_t in enumerate(gates.unbind()):
        if t or has_h0:
            add_product(a_t, hs[t], w_hh)
        i, f, g, o = blocks[t]
        i.sigmoid_(), f.sigmoid_(), tanh(g, out=g), o.sigmoid_()
        torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
        tanh(cs[t + 1], out=hs[t + 1]).mul_(o)


def lstm_backward(gates: Tensor, c: Tensor, w_hh: Tensor, dh: Tensor, dc: Tensor, da: Tensor) -> None:
    """Compute `da` (T, N, 4H) from `dh` (T, N, H), the gradient of the output h[1:].

    `da` may be the same tensor as `gates`. `dc` (N, H) holds the gradient of the last c at first, and the gradient of
    c[0] at the end.
    """
    cs, blocks, da_blocks = c.unbind(), _blocks(gates), _blocks(da)
    tanh_cs = tanh(c[1:], out=torch.empty_like(c[1:])).unbind()  # recompute it, to save memory
    product, di = torch.empty_like(dc), torch.empty_like(dc)

    def step(t: int, dh_t: Tensor) -> None:
        (i, f, g, o), (da_i, da_f, da_g, da_o), tanh_c = blocks[t], da_blocks[t], tanh_cs[t]
        torch.mul(dh_t, o, out=product)
        dc.add_(_tanh_backward(product, tanh_c, grad_input=product))
        # `da` may be `gates`. So use each gate for the last time before its gradient overwrites it.
        _sigmoid_backward(torch.mul(dh_t, tanh_c, out=product), o, grad_input=da_o)
        torch.mul(dc, g, out=di)
        _tanh_backward(torch.mul(dc, i, out=product), g, grad_input=da_g)
        _sigmoid_backward(di, i, grad_input=da_i)
        torch.mul(dc, cs[t], out=product)
        dc.mul_(f)
        _sigmoid_backward(product, f, grad_input=da_f)

    _backward_through_time(dh, da, w_hh, step)


def _backward_through_time(dh: Tensor, da: Tensor, w_hh: Tensor, step: Callable[[int, Tensor], None]) -> None:
    """Call `step(t, dh_t)` from the last t to the first. `dh_t` (N, H) is the gradient of the state after step t.

    It is the sum of dh[t], from the output, and da[t + 1] w_hh, from the next step. `step` must write da[t].
    """
    das, dh_t = da.unbind(), dh[-1].contiguous()
    for t in reversed(range(len(da))):
        step(t, dh_t)
        if t:
            dh_t = add_product(dh[t - 1].clone(memory_format=torch.contiguous_format), das[t], w_hh.T)


def _blocks(gates: Tensor) -> list[tuple[Tensor, ...]]:
    """Return views of i, f, g and o, (N, H) each, for each step of the gates (T, N, 4H)."""
    return list(zip(*(block.unbind() for block in gates.chunk(4, dim=-1)), strict=True))
