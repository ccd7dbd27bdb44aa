"""The matrix products that a cell is made of, and tanh, by the fastest routine at hand for each.

On a CPU in float32, torch.mm and torch.tanh call Intel's MKL, which leaves a tenth to a quarter of the speed of other
makers' processors with AVX-512 unused. oneDNN, which torch carries for its convolutions, does not: there a product is a
convolution with a kernel of one pixel. Nor does NumPy, whose tanh takes a seventh of the time. Elsewhere, and on
processors with AVX2 alone, torch's own are the fastest already. The results differ by rounding alone.
"""

import platform
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_onednn = torch.ops.mkldnn
_CPU = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else platform.processor()
_MKL_IS_SLOW = (
    torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    and "GenuineIntel" not in _CPU and torch.backends.cpu.get_cpu_capability() == "AVX512"
)  # fmt: skip
_WORTHWHILE = 4  # products, from which on packing takes less time than it saves
_MANY = 1024  # rows that a weight's gradient sums over: with fewer, MKL is faster there
_ROWS = 128  # of which a weight's gradient takes a multiple, and the rest by themselves: any other number is slower
_AT_ONCE = 512  # columns of a weight's gradient: with more, what is summed falls out of the cache
_IMAGES = 16  # that the rows of a weight's gradient are dealt out to: with fewer, it is slower


def packed(w: Tensor, rows: int, times: int) -> Tensor:
    """w (G, K), laid out for `times` products with `rows` rows each, by `project` and `accumulate` alone."""
    return _onednn._reorder_linear_weight(w, rows) if times >= _WORTHWHILE and _slow_in_mkl(w) else w


def project(x: Tensor, w: Tensor, plus: Tensor | None = None) -> Tensor:
    """x (M, K), w (G, K), plus (G,), (M, G) or nothing -> x w^T + plus, (M, G)."""
    if not _slow_in_mkl(x):
        return x @ w.T if plus is None else torch.addmm(plus, x, w.T)
    if plus is None or plus.dim() == 1:
        return _onednn._linear_pointwise(x, w, plus, "none", [], "")
    return _onednn._linear_pointwise(x, w, None, "none", [], "").add_(plus)


def accumulate(total: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """total (M, G) += x w^T, in place; x (M, K), w (G, K)."""
    if not _slow_in_mkl(x):
        return total.addmm_(x, w.T)
    return total.add_(project(x, w))


def tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh(x) into `out`, which may be x."""
    if not _slow_in_mkl(x) or torch.compiler.is_compiling():
        return torch.tanh(x, out=out)
    np.tanh(x.numpy(), out=out.numpy())
    return out


def weight_gradient(da: Tensor, x: Tensor) -> Tensor:
    """da (M, G), x (M, K) -> da^T x, (G, K)."""
    if len(da) < _MANY or not _slow_in_mkl(da):
        return da.T @ x
    whole = len(da) // _ROWS * _ROWS
    parts = [_kernel_gradient(da[:whole], part) for part in x[:whole].split(_AT_ONCE, dim=1)]
    gradient = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    return gradient.addmm_(da[whole:].T, x[whole:]) if whole < len(da) else gradient


def _kernel_gradient(da: Tensor, x: Tensor) -> Tensor:
    """The same as the gradient of a convolution's kernel: 16 images of a column of pixels, K channels in, G out."""
    images, gradients = (part.unflatten(0, (_IMAGES, -1, 1)).permute(0, 3, 1, 2) for part in (x, da))  # channels last
    kernel = da.new_empty(da.shape[-1], x.shape[-1], 1, 1)
    one, none = [1, 1], [0, 0]
    _, gradient, _ = torch.ops.aten.convolution_backward(
        gradients, images, kernel, None, one, none, one, False, none, 1, (False, True, False)
    )
    return gradient.flatten(1)


def _slow_in_mkl(tensor: Tensor) -> bool:
    return _MKL_IS_SLOW and tensor.device.type == "cpu" and tensor.dtype == torch.float32
