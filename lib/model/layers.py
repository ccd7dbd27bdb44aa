"""Faster versions of torch.nn.Linear and torch.nn.Dropout for CPUs.

The times in this module were measured with one thread of an AMD EPYC with AVX-512.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from lib.cells.products import on_amd, product, weight_gradient

# oneDNN compiles and keeps code for each number of rows. Batches differ in their number of words, so inputs of more
# than _UNPADDED rows are padded to a multiple of _MULTIPLE rows. Without padding, 160 steps on scenes took 325 MB, not
# 97 MB.
_MULTIPLE, _UNPADDED = 32, 256


class Linear(nn.Linear):
    """A `torch.nn.Linear` that uses the matrix products of `lib.cells.products`.

    With torch.nn.Linear, a training step takes 1.23 times as long (pooled features, hidden 512), 1.18 times (attention
    to 49 regions, hidden 512) or 1.00 times (scenes: 16 regions, hidden 128).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x w^T + b, (..., G), for x (..., D)."""
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x w^T + bias, (..., G), for x (..., D)."""
        if not on_amd(x) or torch.is_autocast_enabled("cpu"):
            return linear(x, self.weight, bias)
        rows = x.reshape(-1, x.shape[-1])  # (M, D)
        count = len(rows)
        if count > _UNPADDED and count % _MULTIPLE:
            rows = pad(rows, (0, 0, 0, -count % _MULTIPLE))
        return _Linear.apply(rows, self.weight, bias)[:count].view(*x.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    """Computes x w^T + b, (M, G), for x (M, D), w (G, D) and b, which is (G,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return product(x, w, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        needs_dx, needs_dw, needs_db = ctx.needs_input_grad
        dx = product(dy, w.T) if needs_dx else None
        dw = weight_gradient(dy, x) if needs_dw else None
        return dx, dw, dy.sum(0) if needs_db else None


class Dropout(nn.Dropout):
    """A `torch.nn.Dropout` that draws only 8 random bits per element on a CPU. So p is rounded to a multiple of 1/256.

    With torch.nn.Dropout, a training step takes 1.05 to 1.10 times as long (pooled features, hidden 512).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Set each element of x to 0 with probability p, and scale the others by 1 / (1 - p), in training only."""
        if not (self.training and self.p) or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(255, round(256 * self.p))  # p is about dropped / 256
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = (bits.view(torch.uint8)[: x.numel()] >= dropped).view(x.shape)
        return torch.ops.aten.native_dropout_backward(x, kept, 256 / (256 - dropped))  # x * kept * scale, in one kernel
