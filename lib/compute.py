"""What the machine offers. None of it changes a result by more than the device's own rounding, so it is
read from the environment and never from params."""

import os

import torch


def device() -> torch.device:
    """CAPTION_DEVICE where set ("cpu", "cuda", "cuda:1", "mps"), else the first GPU, else the CPU."""
    return torch.device(os.environ.get("CAPTION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
