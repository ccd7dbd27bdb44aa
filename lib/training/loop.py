"""Train the decoder for any objective: epochs, validation and checkpoints. Keep the weights of the best epoch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, ClassVar, cast

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
from lib.text.vocabulary import Vocabulary
from lib.training.data import Split, greedy_scores

_CHECKPOINT_SECONDS = 120.0
_TIE_BREAKERS = ("val_loss", "val_cider_d", "val_bleu_4", "val_rouge_l", "val_bleu_1")  # if `monitor` ties
_NOT_PRINTED = ("epoch", "val_bleu_1", "val_bleu_2", "val_bleu_3", "val_rouge_l")

EpochMetrics = dict[str, float]  # one row of the learning curves: metric name -> value


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train, for any objective; see params.yaml."""

    section: ClassVar[str]  # section of params.yaml, for error messages
    epochs: int
    batch_size: int  # captions, or images in self-critical training
    learning_rate: float
    monitor: str  # metric that selects the best epoch: val_loss, val_bleu_4 or val_cider_d
    seed: int
    warmup_fraction: float = 0.05
    decay: str = "cosine"  # cosine or none
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    ema_decay: float = 0.0
    patience: int | None = None


@dataclass(frozen=True)
class Objective:
    """What the decoder learns, and from which data."""

    decoder: Decoder
    vocabulary: Vocabulary
    train: Split
    val: Split
    config: TrainConfig
    max_length: int
    metric: ClassVar[str]  # name of the metric that `loss` returns
    keep_initial: ClassVar[bool] = False  # whether the initial weights (epoch 0) may be the best

    def prepare(self) -> None:
        """Initialise the decoder from the train split, in the main process."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """Return the batches of an epoch. They depend only on the seed and the epoch. Their number is constant."""
        raise NotImplementedError

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        """Return this process's part of a batch's loss and metric, and the weight of the batch in the epoch's mean.

        A process computes only its shard. The sum of the parts over all processes is the loss (or metric) of the batch.
        """
        raise NotImplementedError

    def validate(self, decoder: Decoder) -> EpochMetrics:
        """Return the metrics of the val split; their names begin with val_."""
        return greedy_scores(decoder, self.vocabulary, self.val, self.max_length)


def zero_loss() -> Tensor:
    """Return the loss of an empty shard."""
    return torch.zeros((), device=device(), requires_grad=True)


def weighted_mean(values: Tensor, weights: Sequence[int]) -> float:
    """Return the mean of values (n,), in float64."""
    return float(np.average(values.cpu().double(), weights=weights))


def best_epoch(curve: Sequence[EpochMetrics], monitor: str) -> EpochMetrics:
    """Return the epoch with the lowest loss or the highest score: of equal ones that with the lowest loss, then scores.

    Scores tie in a small val split, and CIDEr-D is 0 by definition if it has one image. Of equal epochs, the first.
    """

    def key(row: EpochMetrics) -> list[float]:
        return [row[name] if name == "val_loss" else -row[name] for name in (monitor, *_TIE_BREAKERS) if name in row]

    return min(curve, key=key)


def explain_ties(curve: Sequence[EpochMetrics], config: TrainConfig, num_images: int) -> str | None:
    """Return a line that says why the best epoch was kept, or None if no other epoch ties with it.

    `num_images` is the size of the val split.
    """
    monitor = config.monitor
    best = best_epoch(curve, monitor)
    equal = [row for row in curve if row[monitor] == best[monitor]]
    if len(equal) == 1:
        return None
    deciding = next((name for name in _TIE_BREAKERS if len({row[name] for row in equal if name in row}) > 1), None)
    reason = f"which has the best {deciding}, {best[deciding]:.3f}" if deciding else "the first of them"
    cause = " (CIDEr-D of a single image is always 0)" if monitor == "val_cider_d" and num_images == 1 else ""
    ties = f"{len(equal)} epochs have {best[monitor]:.3f}{cause}"
    return f"{config.section}.monitor={monitor}: {ties}; kept epoch {best['epoch']}, {reason}"


def train_decoder(objective: Objective, checkpoint_path: Path | None = None) -> list[EpochMetrics]:
    """Train the objective's decoder in place on `device()`, and return the learning curves.

    The decoder ends in evaluation mode with the weights of the best epoch by `config.monitor`. An interrupted run with
    the same arguments resumes from `checkpoint_path` and ends in the same weights. With another number of processes,
    the weights differ only by the order of sums and by dropout. Raises UserError if training diverges.
    """
    decoder, config = objective.decoder.to(device()), objective.config
    if is_main_process():
        objective.prepare()
    broadcast_module(decoder)
    objective = replace(objective, train=objective.train.to(device()), val=objective.val.to(device()))
    run = _TrainingRun(objective, checkpoint_path)
    if checkpoint_path and (state := load_checkpoint(checkpoint_path)):
        run.load_state_dict(state)
    if objective.keep_initial and not run.curve:
        run.end_epoch({"epoch": 0, objective.metric: float("nan")})
    while run.epoch <= config.epochs and not run.should_stop():
        decoder.train()
        batches, first = objective.batches(run.epoch), len(run.weights)
        # One dropout seed per rank and batch. So a run that resumes within an epoch uses the same seeds.
        seeds = np.random.default_rng([config.seed, run.epoch, rank()]).integers(2**63, size=len(batches)).tolist()
        progress = tqdm(
            list(zip(batches, seeds, strict=True))[first:], f"epoch {run.epoch} of {config.epochs}", len(batches),
            leave=False, unit="batch", disable=None if is_main_process() else True, initial=first,
        )  # fmt: skip
        for batch, seed in progress:
            seed_dropout(seed)
            run.step(*objective.loss(batch))
        run.check_finite()
        run.end_epoch({"epoch": run.epoch, objective.metric: weighted_mean(run.metrics, run.weights)})
    if run.epoch <= config.epochs:
        print_once(f"stopped early: no improvement in the last {config.patience} epochs")
    if line := explain_ties(run.curve, config, len(objective.val.references)):
        print_once(line)
    decoder.load_state_dict(run.best)
    decoder.eval()
    return run.curve


class _TrainingRun:
    """The state of training: everything that the next steps depend on, and the learning curves so far."""

    def __init__(self, objective: Objective, checkpoint_path: Path | None):
        config, batches = objective.config, len(objective.batches(1))
        self._objective, self._config, self._checkpoint_path = objective, config, checkpoint_path
        self._decoder = objective.decoder
        self._optimiser = Optimiser(
            self._decoder.parameters(), config.learning_rate, config.epochs * batches, config.weight_decay,
            warmup_fraction=config.warmup_fraction, decay=config.decay == "cosine", max_grad_norm=config.max_grad_norm,
        )  # fmt: skip
        self._ema = EMA(self._decoder, config.ema_decay) if config.ema_decay else None
        self.curve: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}  # weights after the best epoch
        # The metrics of this epoch's batches so far. They stay on the device to avoid a synchronisation per step. One
        # tensor holds them all, because many small tensors would fragment the device's memory.
        self.metrics, self.weights = torch.zeros(batches, device=device()), list[int]()
        self._epoch_start = self._saved = time.monotonic()

    @property
    def epoch(self) -> int:
        """Return the number of the current epoch."""
        return int(self.curve[-1]["epoch"]) + 1 if self.curve else 1

    def should_stop(self) -> bool:
        """Return whether the best epoch is at least `patience` epochs ago. False if `patience` is None."""
        if not self.curve or self._config.patience is None:
            return False
        return self.curve[-1]["epoch"] - best_epoch(self.curve, self._config.monitor)["epoch"] >= self._config.patience

    def step(self, loss: Tensor, metric: Tensor, weight: int) -> None:
        """Take one optimiser step. Save a checkpoint if the last checkpoint is older than _CHECKPOINT_SECONDS."""
        self._optimiser.step(loss)
        if self._ema:
            self._ema.update(self._decoder)
        self.metrics[len(self.weights)] = all_reduce_sum(metric.detach())
        self.weights.append(weight)
        if time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
            self._save()

    def check_finite(self) -> None:
        """Raise UserError if a weight is not finite: then training has diverged."""
        if not all(bool(parameter.isfinite().all()) for parameter in self._decoder.parameters()):
            raise UserError(
                f"{self._config.section}.learning_rate={self._config.learning_rate}: non-finite weights after epoch "
                f"{self.epoch}; training diverged. Use a lower learning rate."
            )

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Validate, print the metrics, keep the weights if they are the best so far, and save a checkpoint."""
        validated = cast("Decoder", self._ema.module) if self._ema else self._decoder
        metrics |= self._objective.validate(validated.eval())
        self.curve.append(metrics)
        self.weights = []
        if best_epoch(self.curve, self._config.monitor) is metrics:
            self.best = {name: tensor.clone() for name, tensor in validated.state_dict().items()}
        shown = [
            f"{name} {value:.3f}" for name, value in metrics.items() if name not in _NOT_PRINTED and not isnan(value)
        ]
        seconds, self._epoch_start = time.monotonic() - self._epoch_start, time.monotonic()
        print_once(f"epoch {metrics['epoch']}: {', '.join(shown)}; {seconds:.1f} s")
        self._save()

    def _save(self) -> None:
        if self._checkpoint_path:
            save_checkpoint(self._checkpoint_path, self.state_dict())
            self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "decoder": self._decoder.state_dict(), "ema": self._ema.state_dict() if self._ema else None,
            "optimiser": self._optimiser.state_dict(), "curve": self.curve, "best": self.best,
            "metrics": self.metrics, "weights": self.weights,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._decoder.load_state_dict(state["decoder"])
        if self._ema:
            self._ema.load_state_dict(state["ema"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.curve, self.best = state["curve"], state["best"]
        self.metrics, self.weights = state["metrics"], state["weights"]
