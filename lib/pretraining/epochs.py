"""Epochs of a training that goes on, where it was interrupted, from the last one that it finished."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from lib.optim.checkpoint import load_checkpoint, save_checkpoint
from lib.optim.optimiser import Optimiser
from lib.runtime.device import device


def epochs_left(epochs: int, seed: int, progress: Path, optimiser: Optimiser, **learned: nn.Module) -> Iterator[int]:
    """The numbers of the epochs yet to come, from 1 to `epochs`, with torch seeded for each.

    After each of them the `learned` modules and the optimiser go to the checkpoint `progress`; those of an interrupted
    run come back from there first.
    """
    done = 0
    if found := load_checkpoint(progress, device()):
        parts, done = found
        for name, module in learned.items():
            module.load_state_dict(parts[name])
        optimiser.restore(parts["optimiser"])
    for epoch in range(done + 1, epochs + 1):
        torch.manual_seed((seed * 1000 + epoch) % 2**63)
        yield epoch
        states = {name: module.state_dict() for name, module in learned.items()}
        save_checkpoint(progress, {**states, "optimiser": optimiser.state()}, epoch)
