"""Compute the cells' matrix products and tanh by the fastest routine for this CPU.

Torch calls Intel's MKL for these operations on every x86 CPU. On AMD CPUs, other routines are faster; their results
differ only by rounding. The comments give times of one thread on an AMD EPYC with AVX-512.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

_AMD = torch.backends.mkldnn.is_available() and "AMD" in str(torch.cpu.get_capabilities().get("cpu_name"))


def on_amd(x: Tensor) -> bool:
    """Return whether `x` is float32 on an AMD CPU. False inside torch.compile, which chooses routines itself."""
    return _AMD and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def product(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return x w^T + b, (M, G), for x (M, K), w (G, K) and b (G,) or None."""
    # At M=128, K=512, G=2048, oneDNN takes 1.5 ms and MKL 3.0 ms. If limited to AVX2, oneDNN takes 0.9 times as long
    # as MKL. oneDNN rejects K = 0.
    if on_amd(x) and x.numel():
        return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
    return linear(x, w, b)


def add_product(total: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Add x w^T to `total` (M, G) in place and return it. x (M, K), w (G, K)."""
    return total.add_(product(x, w)) if on_amd(x) else total.addmm_(x, w.T)


def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """Return dy^T x, (G, K), the gradient of w for y = x w^T. dy (M, G), x (M, K)."""
    # oneDNN is faster on the transpose: at M=8704, G=2048, K=512, x^T dy takes 99 ms and dy^T x takes 132 ms.
    return product(x.T, dy.T).T


def tanh(x: Tensor, out: Tensor) -> Tensor:
    """Write tanh(x) to `out`, which may be x, and return it."""
    if not on_amd(x):
        return torch.tanh(x, out=out)
    np.tanh(x.numpy(), out=out.numpy())  # for (128, 512), NumPy takes 0.01 ms and torch 0.14 ms
    return out
