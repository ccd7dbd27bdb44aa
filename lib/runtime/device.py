"""What the machine offers. It changes results by no more than the device's own rounding, and its own dropout, so it
is read from the environment and never from params."""

import os
import re

import torch

from lib.core.errors import UserError


def device() -> torch.device:
    """CAPTION_DEVICE where set ("cpu", "cuda", "cuda:1", "mps"), else the first GPU, else the CPU."""
    asked = os.environ.get("CAPTION_DEVICE")
    if not asked:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", asked):
        raise UserError(f"CAPTION_DEVICE: got {asked!r}, should be cpu, cuda, cuda:1 (the second GPU) or mps")
    found = torch.device(asked)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("CAPTION_DEVICE: got 'mps', and torch finds no such GPUs here: take cpu, or unset it")
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(
            f"CAPTION_DEVICE: got {asked!r}, and torch finds {count or 'no'} such GPUs here: take cpu, or unset it"
        )
    return found
