"""What an LSTM does between its matrix products: by torch, in place; on a GPU by one Triton kernel a step.

For torch the gates of all steps are cut into views once, and not in every step.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from lib.cells.products import after_sigmoid, before_sigmoid, tanh, tanh_is_by_sigmoid

# The derivatives of tanh and sigmoid, times a gradient, from their values: dout (1 - out^2) and dout out (1 - out),
# in one pass and in place.
tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def gates_forward(gates: Tensor, h: Tensor, c: Tensor) -> Callable[[int], None]:
    """For each step t, writes i, f, g and o over a in gates[t], and h[t + 1] and c[t + 1], from c[t].

    gates (T, N, 4H); h and c (T + 1, N, H).
    """
    whole, hs, cs = gates.unbind(), h.unbind(), c.unbind()
    if _by_triton(gates):
        from lib.cells import kernels

        return lambda t: kernels.forward(whole[t], cs[t], cs[t + 1], hs[t + 1])
    i_and_f, blocks = _i_and_f(gates), _blocks(gates)
    one_sigmoid = tanh_is_by_sigmoid(gates)

    def step(t: int) -> None:
        i, f, g, o = blocks[t]
        if one_sigmoid:  # torch gives a call this long to all threads, each block's alone to one
            before_sigmoid(g, out=g), whole[t].sigmoid_(), after_sigmoid(g, out=g)
        else:
            i_and_f[t].sigmoid_(), tanh(g, out=g), o.sigmoid_()
        torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
        tanh(cs[t + 1], out=hs[t + 1]).mul_(o)

    return step


def gates_backward(gates: Tensor, c: Tensor, dc: Tensor, da: Tensor) -> Callable[[int, Tensor], None]:
    """For each step t, from the gradient of h[t + 1] (N, H), writes da[t], and over dc (N, H) that of the step before.

    gates (T, N, 4H); c (T + 1, N, H); da (T, N, 4H), which may be `gates`.
    """
    cs = c.unbind()
    if _by_triton(gates):
        from lib.cells import kernels

        whole, whole_da = gates.unbind(), da.unbind()
        return lambda t, dh: kernels.backward(whole[t], cs[t], cs[t + 1], dh, dc, whole_da[t])
    blocks, da_blocks = _blocks(gates), _blocks(da)
    i_and_f, da_i_and_f = _i_and_f(gates), _i_and_f(da)
    tanh_cs = tanh(c[1:], out=torch.empty_like(c[1:])).unbind()  # made again, for all steps in one call, and not kept
    product, di_and_df = torch.empty_like(dc), torch.empty_like(i_and_f[0])
    di, df = di_and_df.chunk(2, dim=-1)

    def step(t: int, dh: Tensor) -> None:
        (i, f, g, o), (_, _, da_g, da_o), tanh_c = blocks[t], da_blocks[t], tanh_cs[t]
        torch.mul(dh, o, out=product)
        dc.add_(tanh_backward(product, tanh_c, grad_input=product))
        # A gate is read for the last time where its da, which may be the same memory, is written.
        _sigmoid_backward(torch.mul(dh, tanh_c, out=product), o, grad_input=da_o)
        torch.mul(dc, g, out=di)
        torch.mul(dc, cs[t], out=df)
        tanh_backward(torch.mul(dc, i, out=product), g, grad_input=da_g)
        dc.mul_(f)
        _sigmoid_backward(di_and_df, i_and_f[t], grad_input=da_i_and_f[t])

    return step


def _by_triton(tensor: Tensor) -> bool:
    # torch.compile makes a kernel of torch's operations by itself.
    return tensor.is_cuda and not torch.compiler.is_compiling() and _triton_runs()


@cache
def _triton_runs() -> bool:
    """If there is Triton, which torch brings on Linux, and what it builds its launchers with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return find_spec("triton") is not None and compiler is not None and headers.is_file()


def _blocks(gates: Tensor) -> list[tuple[Tensor, ...]]:
    """The gates (T, N, 4H) step by step: i, f, g and o, views of (N, H) each."""
    return list(zip(*(block.unbind() for block in gates.chunk(4, dim=-1)), strict=True))


def _i_and_f(gates: Tensor) -> tuple[Tensor, ...]:
    """The first two blocks of each step, which lie side by side: views of (N, 2H)."""
    return gates.chunk(2, dim=-1)[0].unbind()
