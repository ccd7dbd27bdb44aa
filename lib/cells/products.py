"""The matrix products that a cell is made of, and tanh, by the fastest routine at hand for each.

On a CPU in float32, torch.mm and torch.tanh call Intel's MKL, which leaves a tenth to a quarter of the speed of other
makers' processors with AVX-512 unused. oneDNN, which torch carries for its convolutions, does not. Nor does NumPy,
whose tanh takes a seventh of the time. With AVX2 alone MKL loses by laying the recurrent weights out anew in every
step, which oneDNN does once where the product is a convolution with a kernel of one pixel, and by a tanh that takes
three times as long as torch's sigmoid. Elsewhere torch's own are the fastest already. The results differ by rounding
alone.
"""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

_onednn = torch.ops.mkldnn
_CPU = Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else platform.processor()
_FOREIGN = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and "GenuineIntel" not in _CPU
# Of another maker than Intel, and the widest vectors that they have.
_FOREIGN_AVX512 = _FOREIGN and torch.backends.cpu.get_cpu_capability() == "AVX512"
_FOREIGN_AVX2 = _FOREIGN and torch.backends.cpu.get_cpu_capability() == "AVX2"
_WORTHWHILE = 4  # products, from which on packing takes less time than it saves
_FEW = 256  # rows: up to so many, MKL spends much of a product on laying out the weights, with AVX2
_DEEPEST = 2048  # inputs of a product: with 4096, a convolution is three times slower
_LARGE = 2**20  # weights, from which on a transposed convolution takes less time than its calls cost
_ALIGNED = 32  # rows, of which products take a multiple: for every number of rows oneDNN compiles and keeps code
_UNALIGNED = 256  # rows: up to so many, what is filled up would cost more than it saves
_MANY = 1024  # rows that a weight's gradient sums over: with fewer, MKL is faster there
_ROWS = 128  # of which a weight's gradient takes a multiple, and the rest by themselves: any other number is slower
_AT_ONCE = 512  # columns of a weight's gradient: with more, what is summed falls out of the cache
_IMAGES = 16  # that the rows of a weight's gradient are dealt out to: with fewer, it is slower
_ONE, _MINUS_TWO = torch.tensor(1.0), torch.tensor(-2.0)  # numbers would be made into tensors in every call


def project(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x (M, K), w (G, K), b (G,) or none -> x w^T + b, (M, G)."""
    if not _on_foreign_avx512(x):
        return x @ w.T if b is None else torch.addmm(b, x, w.T)
    rows, excess = len(x), len(x) % _ALIGNED
    if rows <= _UNALIGNED or not excess:
        return _project(x, w, b)
    if x.shape[1] <= len(w):  # it is the narrower one of x and the result that is copied
        return _project(pad(x, (0, 0, 0, _ALIGNED - excess)), w, b)[:rows]
    rest = pad(x[-excess:], (0, 0, 0, _ALIGNED - excess))
    return torch.cat([_project(x[:-excess], w, b), _project(rest, w, b)[:excess]])


def _project(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return _onednn._linear_pointwise(x, w, b, "none", [], "")


def accumulator(totals: Tensor, xs: Tensor, w: Tensor) -> Callable[[int], Tensor]:
    """For each step t: totals[t] += xs[t] w^T, in place. totals (T, M, G), xs (T, M, K), w (G, K)."""
    if _by_convolution(xs, w):
        return _convolution(totals, xs, w)
    totals_of, xs_of = totals.unbind(), xs.unbind()
    if not _on_foreign_avx512(w):
        return lambda t: totals_of[t].addmm_(xs_of[t], w.T)
    if len(xs) < _WORTHWHILE:
        return lambda t: totals_of[t].add_(project(xs_of[t], w))
    packed = _onednn._reorder_linear_weight(w, xs.shape[1])
    return lambda t: totals_of[t].add_(_project(xs_of[t], packed))


def adder(addends: Sequence[Tensor], xs: Tensor, w: Tensor) -> Callable[[int], Tensor]:
    """For each step t: addends[t] + xs[t] w. addends T of (M, G), xs (T, M, K), w (K, G)."""
    if w.numel() >= _LARGE and _by_convolution(xs, w):
        return _transposed_convolution(addends, xs, w)
    xs_of = xs.unbind()
    if not _on_foreign_avx512(w):
        return lambda t: torch.addmm(addends[t], xs_of[t], w)
    return lambda t: project(xs_of[t], w.T).add_(addends[t])  # packing w.T would take longer than it saves


def _by_convolution(xs: Tensor, w: Tensor) -> bool:
    """If w takes longer to lay out anew for each product of xs (T, M, K) than the calls of a convolution cost."""
    steps, rows, inputs = xs.shape
    return steps >= _WORTHWHILE and rows <= _FEW and inputs <= _DEEPEST and _on_foreign_avx2(w)


def _convolution(totals: Tensor, xs: Tensor, w: Tensor) -> Callable[[int], Tensor]:
    """`accumulator` for weights (G, K) of kernels of one pixel, over an image of M pixels, K channels in, G out."""
    images, outs = _images(xs), _images(totals)
    usual = [0, 0], [1, 1], [1, 1], 1  # no padding, every pixel, no gaps, one group
    kernels = _onednn._reorder_convolution_weight(w[:, :, None, None], *usual, images[0].shape)
    add = _onednn._convolution_pointwise_.binary
    return lambda t: add(outs[t], images[t], kernels, None, *usual, "add", 1.0, None, [], None)


def _transposed_convolution(addends: Sequence[Tensor], xs: Tensor, w: Tensor) -> Callable[[int], Tensor]:
    """`adder` likewise: a transposed convolution takes the weights (K, G) as they lie."""
    images, shape = _images(xs), (xs.shape[1], w.shape[1])
    usual = [0, 0], [0, 0], [1, 1], [1, 1], 1  # no padding of images or results, every pixel, no gaps, one group
    kernels = _onednn._reorder_convolution_transpose_weight(w[:, :, None, None], *usual, images[0].shape)
    convolve = _onednn._convolution_transpose_pointwise.default

    def step(t: int) -> Tensor:
        result = convolve(images[t], kernels, None, *usual, "none", [], None)  # an image again, channels last
        return result.as_strided(shape, (shape[1], 1)).add_(addends[t])

    return step


def _images(rows: Tensor) -> tuple[Tensor, ...]:
    """Rows (T, M, K) as T images (1, K, M, 1) of a column of M pixels, channels last."""
    return rows[:, None, :, None].permute(0, 1, 4, 2, 3).unbind()


def tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh(x) into `out`, which may be x."""
    if tanh_is_by_sigmoid(x):
        return after_sigmoid(before_sigmoid(x, out).sigmoid_(), out)
    if not _on_foreign_avx512(x):
        return torch.tanh(x, out=out)
    np.tanh(x.numpy(), out=out.numpy())
    return out


def tanh_is_by_sigmoid(x: Tensor) -> bool:
    """If tanh(x) is had as after_sigmoid(sigmoid(before_sigmoid(x))), which is 1 - 2 sigmoid(-2x), within 1e-7."""
    return _on_foreign_avx2(x)


def before_sigmoid(x: Tensor, out: Tensor) -> Tensor:
    """-2x into `out`, which may be x."""
    return torch.mul(x, _MINUS_TWO, out=out)


def after_sigmoid(s: Tensor, out: Tensor) -> Tensor:
    """1 - 2s into `out`, which may be s."""
    return torch.sub(_ONE, s, alpha=2, out=out)


def weight_gradient(da: Tensor, x: Tensor) -> Tensor:
    """da (M, G), x (M, K) -> da^T x, (G, K)."""
    if len(da) < _MANY or not _on_foreign_avx512(da):
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


def _on_foreign_avx512(tensor: Tensor) -> bool:
    return _FOREIGN_AVX512 and _is_usual(tensor)


def _on_foreign_avx2(tensor: Tensor) -> bool:
    return _FOREIGN_AVX2 and _is_usual(tensor)


def _is_usual(tensor: Tensor) -> bool:
    """If it is of a kind that the other routines know; torch.compile knows none of them, but chooses by itself."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not torch.compiler.is_compiling()
