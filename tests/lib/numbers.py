"""Compare tensors numerically."""

from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference, divided by the norm of `theirs`."""
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item()
