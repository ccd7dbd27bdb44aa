"""`Dropout`: torch.nn.Dropout, with masks that cost a tenth of the time on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Dropout(nn.Dropout):
    """Stands in for `torch.nn.Dropout`. On a CPU the probability is rounded to a multiple of 1/256.

    A CPU's random numbers come one after another, and torch draws one for each element. Here a number of 64 bits
    decides on eight elements.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x, any shape -> x with each element 0 with probability p, else over (1 - p); x itself when not training."""
        if not (self.training and self.p) or x.device.type != "cpu":
            return super().forward(x)
        return _Dropped.apply(x, min(255, round(256 * self.p)))


class _Dropped(torch.autograd.Function):
    """x, each element 0 in `of_256` of 256 cases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of_256: int) -> Tensor:
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = (bits.view(torch.uint8)[: x.numel()] >= of_256).view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = 256 / (256 - of_256)
        return torch.ops.aten.native_dropout_backward(x, kept, ctx.scale)  # x kept scale, in one pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(dy, kept, ctx.scale), None
