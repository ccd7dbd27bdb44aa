"""The matrix products that a cell is made of, by the fastest routine that torch has for each.

On a CPU in float32, torch.mm calls MKL, which leaves half of the speed of a processor that is not Intel's unused;
oneDNN, which torch carries for its convolutions, does not: there a product is a convolution with a kernel of one
pixel. Elsewhere torch.mm is the fastest already. The results differ by rounding alone.
"""

import torch
from torch import Tensor

_onednn = torch.ops.mkldnn
_WORTHWHILE = 4096  # rows in all, from which on packing takes less time than it saves
_AT_ONCE = 512  # columns of a weight's gradient: with more, what is summed falls out of the cache


def packed(w: Tensor, rows: int, times: int) -> Tensor:
    """w (G, K), laid out for `times` products with `rows` rows each, by `project` and `accumulate` alone."""
    if rows * times < _WORTHWHILE or not _by_onednn(w):
        return w
    return _onednn._reorder_linear_weight(w.contiguous(), rows)


def project(x: Tensor, w: Tensor, plus: Tensor) -> Tensor:
    """x (M, K), w (G, K), plus (G,) or (M, G) -> x w^T + plus, (M, G)."""
    if not _by_onednn(x):
        return torch.addmm(plus, x, w.T)
    if plus.dim() == 1:
        return _onednn._linear_pointwise(x, w, plus, "none", [], "")
    return _onednn._linear_pointwise.binary(x, plus, w, None, "add")


def accumulate(total: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """total (M, G) += x w^T, in place; x (M, K), w (G, K)."""
    if not _by_onednn(x):
        return total.addmm_(x, w.T)
    return total.add_(_onednn._linear_pointwise(x, w, None, "none", [], ""))


def weight_gradient(da: Tensor, x: Tensor) -> Tensor:
    """da (T, N, G), x (T, N, K) -> sum over T and N of da^T x, (G, K)."""
    if not _by_onednn(da):
        return da.flatten(0, 1).T @ x.flatten(0, 1)
    parts = [_kernel_gradient(da, part) for part in x.split(_AT_ONCE, dim=2)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _kernel_gradient(da: Tensor, x: Tensor) -> Tensor:
    """The same as the gradient of a convolution's kernel: T images of N x 1 pixels, K channels in, G channels out."""
    images, gradients = (part.unsqueeze(2).permute(0, 3, 1, 2) for part in (x, da))  # laid out channels last
    kernel = da.new_empty(da.shape[-1], x.shape[-1], 1, 1)
    one, none = [1, 1], [0, 0]
    _, gradient, _ = torch.ops.aten.convolution_backward(
        gradients, images, kernel, None, one, none, one, False, none, 1, (False, True, False)
    )
    return gradient.flatten(1)


def _by_onednn(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and torch.backends.mkldnn.is_available()
