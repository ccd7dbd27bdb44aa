"""The relative error of tensors."""

from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the norm of `theirs`."""
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item()
