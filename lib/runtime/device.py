"""Choose the device that runs the models.

It is an environment variable and not a param, because it changes results only by rounding and dropout.
"""

import os
import re

import torch

from lib.core.errors import UserError


def device() -> torch.device:
    """Return CAPTION_DEVICE ("cpu", "cuda", "cuda:1", "mps"); if unset, the first GPU or, without a GPU, the CPU."""
    name = os.environ.get("CAPTION_DEVICE")
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UserError(f"CAPTION_DEVICE={name}: not a device. Use cpu, cuda, cuda:1 (the second GPU) or mps.")
    chosen = torch.device(name)
    if chosen.type != "cpu":
        count = torch.cuda.device_count() if chosen.type == "cuda" else int(torch.backends.mps.is_available())
        if (chosen.index or 0) >= count:
            raise UserError(f"CAPTION_DEVICE={name}: torch finds {count} such GPUs. Use cpu, or unset CAPTION_DEVICE.")
    return chosen
