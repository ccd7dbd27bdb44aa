"""Real processes for tests/lib/test_distributed.py: `python -m tests.lib.ranks FOLDER`.

Torch is imported once. Then one, two and three processes are forked. They communicate by gloo, or on a GPU by NCCL.
Each process writes its results to FOLDER/WORLD-RANK.json and .safetensors.
"""

import json
import os
import shutil
import sys
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from lib.finetuning.self_critical import SelfCritical
from lib.model.decoding import gather_hypotheses
from lib.optim.checkpoint import load_checkpoint
from lib.optim.optimiser import Optimiser
from lib.runtime import distributed
from lib.runtime.device import device
from lib.runtime.distributed import all_gather, all_reduce_sum, is_main_process, rank, shard, world_size
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.training import data as training_data, loop
from lib.training.cross_entropy import CrossEntropy, mean_loss
from lib.training.data import greedy_captions, val_scores
from lib.training.loop import EpochMetrics, train_decoder
from lib.training.recorder import Recorder
from tests.commands import free_port
from tests.lib.small_training import CROSS_ENTROPY, MAX_LENGTH, SELF_CRITICAL, VOCABULARY, data, decoder

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
WORLDS = (1, 2, 3)
SHORT_TIMEOUT = 4  # seconds
# 11 captions divide evenly by neither 2 nor 3; with 2 and 1 captions, some processes get no caption.
_BATCHES = [np.arange(11), np.arange(11, 13), np.array([20])]

Results = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and values for JSON


def messages() -> Results:
    """Call each function of lib.runtime.distributed."""
    own, module = torch.tensor([0.1, 0.2, 0.7]) * (rank() + 1), nn.Linear(3, 2).to(device())
    nn.init.constant_(module.weight, rank() + 1)
    distributed.broadcast_module(module)
    values = {
        "shards": [list(shard(range(items))) for items in (0, 1, 2, 7, 12)],
        "gathered": [all_gather(shard(torch.arange(items))).tolist() for items in (0, 1, 2, 7)],
        "bytes": distributed.broadcast_bytes(f"{rank()}".encode()).decode(),
        "no bytes": distributed.broadcast_bytes(b"" if is_main_process() else b"something").decode(),
    }
    totals = {"total": all_reduce_sum(own.to(device())).clone(), "cpu total": all_reduce_sum(own).clone()}
    return {"own": own, "weight": module.weight.detach(), **totals}, values


def gradients() -> Results:
    """Return the gradient and the metric of each batch, summed over the processes."""
    split = data().to(device())
    double = replace(split, features=split.features.double())
    objectives: dict[str, Any] = {
        attention: CrossEntropy(decoder(attention).to(device()), VOCABULARY, split, split, CROSS_ENTROPY, MAX_LENGTH)
        for attention in ("none", "additive")
    }
    for baseline in ("greedy", "mean"):
        model, config = decoder().to(device()).double(), replace(SELF_CRITICAL, baseline=baseline)
        objectives[baseline] = SelfCritical(model, VOCABULARY, double, double, config, MAX_LENGTH)
    tensors, values = {}, {}
    for name, objective in objectives.items():
        model, metrics = objective.decoder, []
        for number, batch in enumerate(_BATCHES):
            model.zero_grad()
            loss, metric, weight = objective.loss((batch, 5) if isinstance(objective, SelfCritical) else batch)
            loss.backward()
            distributed.all_reduce_gradients(list(model.parameters()))
            tensors[f"{name} {number}"] = torch.cat([p.grad.flatten() for p in model.parameters()])
            metrics.append([all_reduce_sum(metric).item(), weight])
        values[name] = metrics
    return tensors, values


def captions() -> Results:
    """Return the val loss and scores of a decoder, and its captions."""
    model, split = decoder().to(device()).eval(), data()
    values: dict[str, Any] = {}
    training_data._BATCH = 5
    for images in (1, 23):
        values[f"val_loss {images}"] = mean_loss(model, data(images).to(device()), batch_size=5)
        values[f"scores {images}"] = val_scores(
            data(images), greedy_captions(model, VOCABULARY, data(images), MAX_LENGTH)
        )
    parts = [split.features.to(device())[start : start + 5] for start in shard(range(0, 23, 5))]
    constrain = DecodingConstraints().apply
    own = [best for part in parts for best, *_ in beam_search(model, part, 3, MAX_LENGTH, 0.7, constrain)]
    gathered = gather_hypotheses(own)
    values["beam"] = [[caption.token_ids, caption.log_prob, len(caption.attention)] for caption in gathered]
    last_only = gather_hypotheses(own[:1] * (rank() == world_size() - 1))
    values["of the last rank"] = [caption.token_ids for caption in last_only]
    return {"attention": torch.cat([caption.attention for caption in gathered])}, values


def train(dropout: float = 0.0, checkpoint: Path | None = None) -> tuple[dict[str, Tensor], list[EpochMetrics]]:
    """Train by cross-entropy, with a checkpoint after each batch."""
    loop._CHECKPOINT_SECONDS = 0.0
    model, split = decoder(dropout=dropout), data()
    curve = train_decoder(CrossEntropy(model, VOCABULARY, split, split, CROSS_ENTROPY, MAX_LENGTH), checkpoint)
    return model.state_dict(), curve


class Interrupting(Optimiser):
    """Raises InterruptedError in the middle of the second epoch."""

    def step(self, loss: Tensor) -> None:
        if self.steps_done == 10:
            raise InterruptedError
        super().step(loss)


def interrupt(folder: Path) -> Results:
    """Leave checkpoints of interrupted training with and without dropout."""
    loop.Optimiser = Interrupting  # type: ignore[misc]
    for dropout in (0.0, 0.3):
        with pytest.raises(InterruptedError):
            train(dropout, folder / f"after-{world_size()}-{dropout}")
    return {}, {}


def resume(folder: Path, dropout: float, world: int) -> dict[str, Tensor]:
    """Resume from a checkpoint that `world` processes wrote. Only the main process has its file."""
    checkpoint = folder / f"from-{world}-with-{world_size()}-{dropout}-{rank()}"
    if is_main_process():
        shutil.copyfile(folder / f"after-{world}-{dropout}", checkpoint)
    return train(dropout, checkpoint)[0]


def trainings(folder: Path) -> Results:
    """Run complete trainings: some without interruption, some resumed from a checkpoint."""
    seeds, seed = [], loop.seed_dropout
    loop.seed_dropout = lambda number: seeds.append(number) or seed(number)  # type: ignore[assignment]
    trained, curve = train()
    model, split = decoder(), data()
    checkpoint = folder / f"self-critical-{world_size()}"
    objective = SelfCritical(model, VOCABULARY, split, split, SELF_CRITICAL, MAX_LENGTH)
    recorder = Recorder(folder / f"curves-{world_size()}-{rank()}")
    self_critical_curve = train_decoder(objective, checkpoint, recorder)
    state = load_checkpoint(checkpoint)  # the best epoch is 0, so compare the last weights
    assert state
    runs = {"trained": trained, "self-critical": state["decoder"], "dropout": train(0.3)[0]}
    runs["dropout resumed"] = resume(folder, 0.3, world_size())
    runs |= {f"from {world}": resume(folder, 0.0, world) for world in WORLDS}
    values = {"curve": curve, "self-critical curve": self_critical_curve[1:], "seeds": seeds}
    return {run: torch.cat([state[name].flatten() for name in sorted(state)]) for run, state in runs.items()}, values


def as_a_machine(number: int) -> dict[str, str]:
    """Return variables that simulate a separate machine, because NCCL rejects two processes on one GPU."""
    return {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_HOSTID": str(number), "NCCL_SOCKET_IFNAME": "lo"}


def process(number: int, path: Path, parts: Sequence[Callable[[], Results]]) -> None:
    """Run the parts in one process, and write their results to `path`-`number`."""
    os.environ |= {"RANK": str(number), **as_a_machine(number)}
    torch.set_num_threads(1)
    with distributed.process_group():
        results = [part() for part in parts]
    tensors, values = (dict(ChainMap(*parts)) for parts in zip(*results, strict=True))
    save_file(tensors, f"{path}-{number}.safetensors")
    Path(f"{path}-{number}.json").write_text(json.dumps(values))


def late() -> Results:
    """Let the main process reach a barrier after the message timeout has passed. The others must still wait for it."""
    if is_main_process():
        time.sleep(2 * SHORT_TIMEOUT)
    distributed.barrier()
    return {}, {"arrived": all_reduce_sum(torch.ones(1)).item()}


def main(folder: Path) -> None:
    for world in WORLDS:
        start(world, folder / f"before-{world}", lambda: interrupt(folder))
    for world in WORLDS:
        start(world, folder / f"{world}", messages, gradients, captions, lambda: trainings(folder))
    distributed._TIMEOUT = timedelta(seconds=SHORT_TIMEOUT)
    os.environ["CAPTION_DEVICE"] = "cpu"  # on a GPU the first message may take longer than SHORT_TIMEOUT
    start(2, folder / "late", late)


def start(world: int, path: Path, *parts: Callable[[], Results]) -> None:
    """Fork `world` processes that run the parts and write their results; wait until they end."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    start_processes(process, (path, parts), world, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
