"""A training that was interrupted goes on from here, to the very bytes that it would have come to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from lib.core.files import atomic_write
from lib.runtime.distributed import broadcast_bytes, is_main_process, print_once

_POSITION = "position"


def save_checkpoint(path: Path, parts: Mapping[str, Mapping[str, Tensor]], position: Any) -> None:
    """Writes named groups of tensors, and `position`, which JSON can hold; of several processes the first does.

    The file is replaced at once: whenever the process is killed, the old one is there or the new one.
    """
    if not is_main_process():
        return
    flat = {_POSITION: torch.frombuffer(bytearray(json.dumps(position), "utf-8"), dtype=torch.uint8)}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            # Copies: a file holds each by itself, and the best weights may share memory with the newest.
            flat[f"{part}/{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    with atomic_write(path) as unfinished:
        save_file(flat, unfinished)


def load_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, dict[str, Tensor]], Any] | None:
    """What `save_checkpoint` was given, on `device`; None if there is none.

    The first process reads it for all, so that they never go on from different ones.
    """
    content = broadcast_bytes(path.read_bytes() if is_main_process() and path.exists() else b"")
    if not content:
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        flat = load(content)
        position = json.loads(flat.pop(_POSITION).numpy().tobytes())
    except (SafetensorError, KeyError, ValueError):
        print_once(f"{path} is damaged: starting anew")
        return None
    for key, tensor in flat.items():
        part, name = key.split("/", 1)
        parts.setdefault(part, {})[name] = tensor.to(device)
    return parts, position
