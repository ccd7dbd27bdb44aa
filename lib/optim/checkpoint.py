"""Checkpoints, from which interrupted training resumes."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lib.core.files import atomic_write
from lib.runtime.device import device
from lib.runtime.distributed import broadcast_bytes, is_main_process, print_once


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested dict of tensors and plain values atomically. Only the main process writes."""
    if is_main_process():
        content = io.BytesIO()
        torch.save(state, content)  # to memory, because torch.save raises no OSError on a full disk
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the saved dict, with its tensors on `device()`; None if the file is missing or damaged.

    The main process reads the file and sends it to the others, so that all resume from the same step.
    """
    content = broadcast_bytes(path.read_bytes() if is_main_process() and path.exists() else b"")
    if not content:
        return None
    try:
        return torch.load(io.BytesIO(content), map_location=device(), weights_only=True)
    except Exception:  # malformed bytes may raise almost anything
        print_once(f"{path} is damaged, so training starts from the beginning")
        return None
