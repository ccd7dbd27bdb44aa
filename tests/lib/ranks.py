"""What tests/lib/test_distributed.py has real processes do: `python -m tests.lib.ranks FOLDER`.

Torch is imported once. Then, for each number of processes, as many are forked, which talk by gloo, or on a GPU by NCCL.
Each writes what it found to FOLDER/found-NUMBER-RANK.json and .safetensors.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from lib.finetuning.reward import CiderReward
from lib.finetuning.self_critical import SelfCritical, finetune_decoder
from lib.model.decoding import gather_hypotheses
from lib.optim.checkpoint import load_checkpoint
from lib.optim.optimiser import Optimiser
from lib.runtime import distributed
from lib.runtime.device import device
from lib.runtime.distributed import (
    all_gather,
    all_reduce_gradients,
    all_reduce_sum,
    barrier,
    broadcast_bytes,
    broadcast_module,
    is_main_process,
    process_group,
    rank,
    shard,
    world_size,
)
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.training import loop, split as splits
from lib.training.cross_entropy import CrossEntropy, mean_loss, train_decoder
from lib.training.loop import EpochMetrics
from lib.training.split import greedy_scores
from tests.commands import free_port
from tests.lib.small_training import CROSS_ENTROPY, LONGEST, SELF_CRITICAL, VOCABULARY, data, decoder

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
WORLDS = (1, 2, 3)
IMPATIENT = 4  # seconds
BATCHES = [np.arange(11), np.arange(11, 13), np.array([20])]  # none of them can be shared alike

Found = tuple[dict[str, Tensor], dict[str, Any]]


def messages() -> Found:
    """Each function of lib.runtime.distributed."""
    own, copied = torch.tensor([0.1, 0.2, 0.7]) * (rank() + 1), nn.Linear(3, 2).to(device())
    nn.init.constant_(copied.weight, rank() + 1)
    broadcast_module(copied)
    told = {
        "shares": [list(shard(range(items))) for items in (0, 1, 2, 7, 12)],
        "gathered": [all_gather(shard(torch.arange(items))).tolist() for items in (0, 1, 2, 7)],
        "from first": broadcast_bytes(f"{rank()}".encode()).decode(),
        "nothing from first": broadcast_bytes(b"" if is_main_process() else b"something").decode(),
    }
    return {"total": all_reduce_sum(own).clone(), "own": own, "copied": copied.weight.detach()}, told


def gradients() -> Found:
    """The gradient and the figure of each batch, of all processes together."""
    split = data().to(device())
    double = replace(split, features=split.features.double())
    reward = CiderReward(list(split.references.values()), VOCABULARY)
    objectives: dict[str, Any] = {
        attention: CrossEntropy(decoder(attention).to(device()), VOCABULARY, split, split, CROSS_ENTROPY, LONGEST)
        for attention in ("none", "additive")
    }
    for baseline in ("greedy", "mean"):
        recipe = replace(SELF_CRITICAL, baseline=baseline)
        objectives[baseline] = SelfCritical(
            decoder().to(device()).double(), VOCABULARY, double, double, reward, recipe, LONGEST
        )
    tensors, told = {}, {}
    for name, objective in objectives.items():
        model, figures = objective.decoder, []
        for number, batch in enumerate(BATCHES):
            model.zero_grad()
            loss, figure, weight = objective.loss((batch, 5) if isinstance(objective, SelfCritical) else batch)
            loss.backward()
            all_reduce_gradients(list(model.parameters()))
            tensors[f"{name} {number}"] = torch.cat([p.grad.flatten() for p in model.parameters()])
            figures.append([all_reduce_sum(figure).item(), weight])
        told[name] = figures
    return tensors, told


def captions() -> Found:
    """What val says of a decoder, and what it writes."""
    model, split = decoder().to(device()).eval(), data()
    told: dict[str, Any] = {}
    splits._DECODING_BATCH = 5
    for images in (1, 23):
        told[f"val_loss {images}"] = mean_loss(model, data(images).to(device()), batch_size=5)
        told[f"scores {images}"] = greedy_scores(model, VOCABULARY, data(images), LONGEST)
    parts = [split.features.to(device())[first : first + 5] for first in shard(range(0, 23, 5))]
    own = [
        best for part in parts for best, *_ in beam_search(model, part, 3, LONGEST, 0.7, DecodingConstraints().apply)
    ]
    written = gather_hypotheses(own)
    told["beam"] = [[caption.token_ids, caption.log_prob, len(caption.attention)] for caption in written]
    told["the last's first"] = [
        caption.token_ids for caption in gather_hypotheses(own[:1] * (rank() == world_size() - 1))
    ]
    return {"looked": torch.cat([caption.attention for caption in written])}, told


def teach(dropout: float = 0.0, progress: Path | None = None) -> tuple[dict[str, Tensor], list[EpochMetrics]]:
    """Cross-entropy, with a checkpoint after each batch."""
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    model, split = decoder(dropout=dropout), data()
    curve = train_decoder(model, VOCABULARY, split, split, CROSS_ENTROPY, LONGEST, progress)
    return model.state_dict(), curve


class Interrupted(Exception):
    pass


class Interrupting(Optimiser):
    """Gives up in the middle of the second epoch."""

    def step(self, loss: Tensor) -> None:
        if self._done == 10:
            raise Interrupted
        super().step(loss)


def interrupt(folder: Path) -> Found:
    """Leaves checkpoints of trainings with and without dropout."""
    loop.Optimiser = Interrupting  # type: ignore[misc]
    interrupted = 0
    for dropout in (0.0, 0.3):
        try:
            teach(dropout, folder / f"after-{world_size()}-{dropout}")
        except Interrupted:
            interrupted += 1
    return {}, {"interrupted": interrupted}


def go_on(folder: Path, dropout: float, world: int) -> dict[str, Tensor]:
    """Trains on from a checkpoint of so many processes. The first alone has it: the others may be on other machines."""
    progress = folder / f"from-{world}-with-{world_size()}-{dropout}-{rank()}"
    if is_main_process():
        shutil.copyfile(folder / f"after-{world}-{dropout}", progress)
    return teach(dropout, progress)[0]


def trainings(folder: Path) -> Found:
    """Whole trainings, undisturbed and gone on with."""
    seeds, seed = [], loop.seed_dropout
    loop.seed_dropout = lambda number: seeds.append(number) or seed(number)  # type: ignore[assignment]
    taught, curve = teach()
    model, split = decoder(), data()
    progress = folder / f"critical-{world_size()}"
    critical = finetune_decoder(model, VOCABULARY, split, split, SELF_CRITICAL, LONGEST, progress)
    last, _ = load_checkpoint(progress, device())  # the best is the first, which nothing was learned for
    runs = {"taught": taught, "critical": last["decoder"], "dropout": teach(0.3)[0]}
    runs["dropout gone on"] = go_on(folder, 0.3, world_size())
    runs |= {f"from {world}": go_on(folder, 0.0, world) for world in WORLDS}
    told = {"curve": curve, "critical curve": critical[1:], "seeds": seeds}
    return {run: torch.cat([state[name].flatten() for name in sorted(state)]) for run, state in runs.items()}, told


def as_a_machine(number: int) -> dict[str, str]:
    """The variables of a process on a machine of its own: NCCL lets no two on one machine share its GPU."""
    return {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_HOSTID": str(number), "NCCL_SOCKET_IFNAME": "lo"}


def process(number: int, name: str, parts: list[Callable[[], Found]], folder: Path) -> None:
    """One process: does the parts in turn, and writes what they found."""
    os.environ |= {"RANK": str(number), **as_a_machine(number)}
    torch.set_num_threads(1)
    tensors: dict[str, Tensor] = {}
    told: dict[str, Any] = {}
    with process_group():
        for part in parts:
            found, said = part()
            tensors, told = {**tensors, **found}, {**told, **said}
    save_file(tensors, folder / f"{name}-{number}.safetensors")
    (folder / f"{name}-{number}.json").write_text(json.dumps(told))


def late() -> Found:
    """The first keeps the others waiting for longer than a message may take."""
    if is_main_process():
        time.sleep(2 * IMPATIENT)
    barrier()
    return {}, {"arrived": all_reduce_sum(torch.ones(1)).item()}


def main(folder: Path) -> None:
    before: list[Callable[[], Found]] = [lambda: interrupt(folder)]
    parts = [messages, gradients, captions, lambda: trainings(folder)]
    for then, work in (("before", before), ("found", parts)):
        for world in WORLDS:
            start(world, f"{then}-{world}", work, folder)
    distributed._TIMEOUT = timedelta(seconds=IMPATIENT)
    os.environ["CAPTION_DEVICE"] = "cpu"  # on a GPU the first message may well take that long
    start(2, "late", [late], folder)


def start(world: int, name: str, parts: list[Callable[[], Found]], folder: Path) -> None:
    """Forks so many processes, and waits for their end."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    start_processes(process, (name, parts, folder), world, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
