"""Hand-written functions under `torch.autocast`, which casts the inputs of torch's own functions alone."""

from typing import Any

import torch
from torch import Tensor


def apply_in_autocast(function: type[torch.autograd.Function], x: Tensor, *others: Tensor | None) -> Any:
    """`function` of x and others, cast to autocast's type where that is on."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return function.apply(x, *others)
    dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        return function.apply(*(None if tensor is None else tensor.to(dtype) for tensor in (x, *others)))
