"""Matrix products and tanh for the cells, by the fastest routine for this CPU.

For these, torch calls Intel's MKL on every x86 CPU. On AMD CPUs other routines are faster; results differ by rounding.
The figures in the comments are those of one thread on an AMD EPYC with AVX-512.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

_AMD = torch.backends.mkldnn.is_available() and "AMD" in str(torch.cpu.get_capabilities().get("cpu_name"))


def on_amd(x: Tensor) -> bool:
    """Return whether `x` is float32 on an AMD CPU, and not traced by torch.compile, which chooses routines itself."""
    return _AMD and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def product(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x w^T + b, (M, G), for x (M, K), w (G, K) and b (G,) or None."""
    # oneDNN takes 0.5 times the time of MKL (M=128, K=512, G=2048: 1.5 ms and 3.0 ms), limited to AVX2 0.9 times. It
    # rejects an empty sum, K = 0.
    if on_amd(x) and x.numel():
        return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    return linear(x, w, b)


def add_product(total: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Add x w^T to `total` (M, G) in place and return it. x (M, K), w (G, K)."""
    return total.add_(product(x, w)) if on_amd(x) else total.addmm_(x, w.T)


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """Return dy^T x, (G, K), the gradient of w for y = x w^T. dy (M, G), x (M, K)."""
    # oneDNN takes 0.75 times the time of dy^T x for its transpose x^T dy (M=8704, G=2048, K=512: 99 ms and 132 ms).
    return product(x.T, dy.T).T


def tanh(x: Tensor, out: Tensor) -> Tensor:
    """Write tanh(x) to `out`, which may be x, and return it."""
    if not on_amd(x):
        return torch.tanh(x, out=out)
    np.tanh(x.numpy(), out=out.numpy())  # 0.1 times the time of torch (128 x 512: 0.01 ms, 0.14 ms)
    return out
