"""Hand-written functions under `torch.autocast`, which casts the inputs of torch's own functions alone."""

from typing import Any

import torch
from torch import Tensor


def apply_in_autocast(function: type[torch.autograd.Function], *tensors: Tensor) -> Any:
    """`function` of `tensors`, the first of which says on what device, all cast to autocast's type where that is on."""
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        tensors = tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    with torch.autocast(kind, enabled=False):
        return function.apply(*tensors)
