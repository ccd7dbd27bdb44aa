"""Epoch after epoch: what all training of the decoder shares, whatever its objective. The best epoch is kept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.core.errors import UserError
from lib.model.decoder import Decoder
from lib.optim.checkpoint import load_checkpoint, save_checkpoint
from lib.optim.optimiser import EMA, Optimiser, seed_dropout
from lib.runtime.device import device
from lib.runtime.distributed import all_reduce_sum, broadcast_module, is_main_process, print_once, rank

_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_UNTOLD = ("epoch", "val_bleu_1", "val_bleu_2", "val_bleu_3", "val_rouge_l")  # in the curves, but not on the screen

EpochMetrics = dict[str, float]  # of the learning curves: figures of one epoch by the names of their columns


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train, whatever the objective; see params.yaml."""

    epochs: int
    learning_rate: float
    monitor: str  # val_loss, or a score: val_bleu_4, val_cider_d
    seed: int
    warmup_fraction: float = 0.05
    decay: str = "cosine"  # or none
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    ema_decay: float = 0.0
    patience: int | None = None


class Objective(Protocol):
    """What is to be learned."""

    @property
    def figure(self) -> str:
        """What the learning curve calls the figure that `loss` gives."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """The batches of an epoch, as many in each. They follow from the seed and the epoch alone."""

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """The loss of a batch, its figure for the learning curve, and how much that weighs in the epoch's mean.

        Of several processes each has its share of the batch, and gives what that adds to loss and figure of the whole.
        """

    def validate(self, decoder: Decoder) -> EpochMetrics:
        """The figures of the val split, whose names begin with val_."""


def no_loss() -> Tensor:
    """What a process gives for its share of a batch that has fewer items than there are processes."""
    return torch.zeros((), device=device(), requires_grad=True)


def best_epoch(curve: Sequence[EpochMetrics], monitor: str) -> EpochMetrics:
    """The epoch with the lowest loss, or the highest score; the first of equals."""
    return min(curve, key=lambda row: row[monitor] if monitor == "val_loss" else -row[monitor])


def train(
    decoder: Decoder, objective: Objective, recipe: TrainConfig, progress: Path | None, *, from_zero: bool = False
) -> list[EpochMetrics]:
    """Trains `decoder` in place and leaves it, in evaluation mode, as it was after its best epoch.

    `recipe.monitor` says which is the best; with `from_zero` it may be epoch 0, the decoder as it came. Returns the
    learning curves. `progress` is the file of a checkpoint: a run that is interrupted, and started again with the
    same arguments, goes on from it and ends in the same weights; on another number of processes, in the same but for
    the order of sums, and for dropout. Raises UserError where training diverges.
    """
    broadcast_module(decoder)
    run = _Run(decoder, recipe, len(objective.batches(1)))
    if progress:
        run.restore(progress)
    if from_zero and not run.curve:
        began = time.monotonic()
        run.end({"epoch": 0, objective.figure: float("nan"), **objective.validate(decoder.eval())}, began)
        if progress:
            run.save(progress)
    saved = time.monotonic()
    while run.epoch <= recipe.epochs:
        if run.stale:
            print_once(f"no better for {recipe.patience} epochs: stopped")
            break
        began = time.monotonic()
        decoder.train()
        batches, done = objective.batches(run.epoch), len(run.figures)
        # For dropout: no rank has another's, and a run goes on with the same, from whatever batch.
        seeds = np.random.default_rng([recipe.seed, run.epoch, rank()]).integers(2**63, size=len(batches)).tolist()
        bar = tqdm(
            list(zip(batches, seeds, strict=True))[done:], f"epoch {run.epoch} of {recipe.epochs}", len(batches),
            leave=False, unit="batch", disable=None if is_main_process() else True, initial=done,
        )  # fmt: skip
        for batch, seed in bar:
            seed_dropout(seed)
            run.step(*objective.loss(batch))
            if progress and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                run.save(progress)
                saved = time.monotonic()
        run.check()
        run.end({"epoch": run.epoch, objective.figure: run.figures.value, **objective.validate(run.kept.eval())}, began)
        if progress:
            run.save(progress)
    decoder.load_state_dict(run.best)
    decoder.eval()
    return run.curve


class _Run:
    """Where a training stands: all that its next steps depend on, and what came of those so far."""

    def __init__(self, decoder: Decoder, recipe: TrainConfig, batches: int):
        """At the beginning of epochs of so many batches."""
        self._decoder, self._recipe, self._batches = decoder, recipe, batches
        self._optimiser = Optimiser(
            decoder.parameters(), recipe.learning_rate, recipe.epochs * batches, recipe.weight_decay,
            warmup_fraction=recipe.warmup_fraction, decay=recipe.decay == "cosine", max_grad_norm=recipe.max_grad_norm,
        )  # fmt: skip
        self._averaged = EMA(decoder, recipe.ema_decay) if recipe.ema_decay else None
        self.figures = WeightedMean(batches)  # of the epoch's batches so far
        self.curve: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}  # the kept weights after the best epoch

    @property
    def epoch(self) -> int:
        """The number of the epoch that is under way."""
        return int(self.curve[-1]["epoch"]) + 1 if self.curve else 1

    @property
    def kept(self) -> Decoder:
        """The decoder whose weights count: the running mean, or the one that learns."""
        return cast("Decoder", self._averaged.module) if self._averaged else self._decoder

    @property
    def stale(self) -> bool:
        """If the last `patience` epochs brought nothing better."""
        if not self.curve or self._recipe.patience is None:
            return False
        return self.curve[-1]["epoch"] - best_epoch(self.curve, self._recipe.monitor)["epoch"] >= self._recipe.patience

    def step(self, loss: Tensor, figure: Tensor, weight: int) -> None:
        """Learns from the loss of a batch, and notes its figure: of each this process's share."""
        self._optimiser.step(loss)
        if self._averaged:
            self._averaged.update(self._decoder)
        self.figures.add(all_reduce_sum(figure), weight)

    def check(self) -> None:
        """Raises UserError where training has diverged."""
        if not all(bool(parameter.isfinite().all()) for parameter in self._decoder.parameters()):
            raise UserError(
                f"training came to weights that are no numbers in epoch {self.epoch}: lower the learning rate"
            )

    def end(self, row: EpochMetrics, began: float) -> None:
        """Notes and tells how an epoch went that began at that time, and keeps the weights if none went better."""
        self.curve.append(row)
        self.figures = WeightedMean(self._batches)
        if best_epoch(self.curve, self._recipe.monitor) is row:
            self.best = {name: tensor.clone() for name, tensor in self.kept.state_dict().items()}
        told = [f"{name} {figure:.3f}" for name, figure in row.items() if name not in _UNTOLD and not isnan(figure)]
        print_once(f"epoch {row['epoch']}: {', '.join(told)}; {time.monotonic() - began:.1f} s")

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        parts = {
            "decoder": self._decoder.state_dict(), "best": self.best,
            "averaged": self._averaged.state_dict() if self._averaged else {},
            "optimiser": self._optimiser.state(), "figures": self.figures.state(),
        }  # fmt: skip
        save_checkpoint(path, parts, self.curve)

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one."""
        if found := load_checkpoint(path, device()):
            parts, self.curve = found
            self._decoder.load_state_dict(parts["decoder"])
            if self._averaged:
                self._averaged.load_state_dict(parts["averaged"])
            self._optimiser.restore(parts["optimiser"])
            self.figures = WeightedMean(self._batches, parts.get("figures"))
            self.best = parts.get("best", {})


class WeightedMean:
    """The mean of figures that come one by one, each with its weight."""

    def __init__(self, most: int, state: Mapping[str, Tensor] | None = None):
        """Of none so far, or of those that `state` gave; at `most` so many are to come."""
        # On the device, for to ask for each would be to wait for it; and in one tensor: small ones that stay, each made
        # between the large ones of a step, would leave gaps in the memory that those of the next do not fit in.
        self._figures = torch.zeros(most, device=device())
        self._weights: list[int] = []
        if state:
            self._weights = state["weights"].tolist()
            self._figures[: len(self)] = state["figures"]

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, figure: Tensor, weight: int) -> None:
        self._figures[len(self)] = figure.detach()
        self._weights.append(weight)

    @property
    def value(self) -> float:
        return float(np.average(self._figures[: len(self)].cpu().double(), weights=self._weights))

    def state(self) -> dict[str, Tensor]:
        if not self._weights:
            return {}
        return {"figures": self._figures[: len(self)], "weights": torch.tensor(self._weights)}
