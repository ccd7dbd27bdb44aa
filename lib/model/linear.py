"""`Linear`: torch.nn.Linear with the matrix products of `lib.cells.products`, faster on some processors."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.cells.autocast import apply_in_autocast
from lib.cells.products import project, weight_gradient


class Linear(nn.Linear):
    """Stands in for `torch.nn.Linear`: same parameters, same results within rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., G)."""
        bias = () if self.bias is None else (self.bias,)
        return apply_in_autocast(_Linear, x, self.weight, *bias)


class _Linear(torch.autograd.Function):
    """x (..., D), w (G, D), b (G,) or none -> x w^T + b, (..., G)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.has_bias = b is not None
        return project(x.reshape(-1, x.shape[-1]), w, b).view(*x.shape[:-1], len(w))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        x, dy, shape = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), x.shape  # (M, D), (M, G)
        dx = project(dy, w.T).view(shape) if ctx.needs_input_grad[0] else None
        dw = weight_gradient(dy, x) if ctx.needs_input_grad[1] else None
        return (dx, dw, dy.sum(0)) if ctx.has_bias else (dx, dw)
