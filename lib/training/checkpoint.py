"""A training that was interrupted goes on from here, to the very bytes that it would have come to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib.scratch import written_whole

Tensors = Mapping[str, Tensor]


def save_checkpoint(path: Path, parts: Mapping[str, Tensors], position: Any) -> None:
    """Writes named groups of tensors, the states of torch's random numbers, and `position`, which JSON can hold.

    The file is replaced at once: whenever the process is killed, the old one is there or the new one.
    """
    flat = {}
    for part, tensors in {**parts, "random": _random()}.items():
        for name, tensor in tensors.items():
            # Copies: a file holds each by itself, and the best weights may share memory with the newest.
            flat[f"{part}/{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    with written_whole(path) as unfinished:
        save_file(flat, unfinished, {"position": json.dumps(position)})


def load_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, dict[str, Tensor]], Any] | None:
    """What `save_checkpoint` was given, on `device`, and torch's random numbers set to go on. None if there is none."""
    if not path.exists():
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = file.get_tensor(key)
            position = json.loads(file.metadata()["position"])
    except (SafetensorError, KeyError, ValueError):
        print(f"{path} is damaged: starting anew", flush=True)
        return None
    _set_random(parts.pop("random"))
    return {part: {name: t.to(device) for name, t in tensors.items()} for part, tensors in parts.items()}, position


def _random() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random(states: Tensors) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
