"""Train the decoder for any objective: epochs, validation and checkpoints. Keep the weights of the best epoch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isnan
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.core.errors import UserError, short_line
from lib.model.decoder import Decoder
from lib.optim.checkpoint import load_checkpoint, save_checkpoint
from lib.optim.optimiser import EMA, Optimiser, seed_dropout
from lib.runtime.device import device
from lib.runtime.distributed import all_reduce_sum, broadcast_module, is_main_process, print_once, rank
from lib.text.vocabulary import Vocabulary
from lib.training.data import Split, greedy_captions, val_scores
from lib.training.recorder import Recorder

_CHECKPOINT_SECONDS = 120.0
_RECORD_SECONDS = 1.0
_STEP_ROWS = 200  # maximum number of rows of steps.csv
_SHOWN_IMAGES = 3  # val images whose captions are printed after each epoch
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
        """Return metrics of the val split other than the scores of captions; their names begin with val_."""
        return {}


def zero_loss() -> Tensor:
    """Return the loss of an empty shard."""
    return torch.zeros((), device=device(), requires_grad=True)


def weighted_mean(values: Tensor, weights: Sequence[int] | Tensor) -> float:
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


def train_decoder(
    objective: Objective, checkpoint_path: Path | None = None, recorder: Recorder | None = None
) -> list[EpochMetrics]:
    """Train the objective's decoder in place on `device()`, and return the learning curves.

    The main process calls `recorder` after each epoch, and within an epoch at most once a second.
    The decoder ends in evaluation mode with the weights of the best epoch by `config.monitor`. An interrupted run with
    the same arguments resumes from `checkpoint_path` and ends in the same weights. With another number of processes,
    the weights differ only by the order of sums and by dropout. Raises UserError if training diverges.
    """
    decoder, config = objective.decoder.to(device()), objective.config
    if is_main_process():
        objective.prepare()
    broadcast_module(decoder)
    objective = replace(objective, train=objective.train.to(device()), val=objective.val.to(device()))
    run = _TrainingRun(objective, checkpoint_path, recorder)
    if checkpoint_path and (state := load_checkpoint(checkpoint_path)):
        run.load_state_dict(state)
        run.record()
    run.print_references()
    if objective.keep_initial and not run.curve:
        run.end_epoch({"epoch": 0, objective.metric: float("nan")})
    while run.epoch <= config.epochs and not run.should_stop():
        decoder.train()
        batches, first = objective.batches(run.epoch), run.batches_done
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
        run.end_epoch({"epoch": run.epoch, objective.metric: run.epoch_mean()})
    if run.epoch <= config.epochs:
        print_once(f"stopped early: no improvement in the last {config.patience} epochs")
    if line := explain_ties(run.curve, config, len(objective.val.references)):
        print_once(line)
    decoder.load_state_dict(run.best)
    decoder.eval()
    return run.curve


class _TrainingRun:
    """The state of training: everything that the next steps depend on, and the learning curves so far."""

    def __init__(self, objective: Objective, checkpoint_path: Path | None, recorder: Recorder | None):
        config, self._batches = objective.config, len(objective.batches(1))
        self._objective, self._config, self._checkpoint_path = objective, config, checkpoint_path
        self._recorder = recorder if is_main_process() else None
        steps = config.epochs * self._batches
        self._decoder = objective.decoder
        self._optimiser = Optimiser(
            self._decoder.parameters(), config.learning_rate, steps, config.weight_decay,
            warmup_fraction=config.warmup_fraction, decay=config.decay == "cosine", max_grad_norm=config.max_grad_norm,
        )  # fmt: skip
        self._ema = EMA(self._decoder, config.ema_decay) if config.ema_decay else None
        self.curve: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}  # weights after the best epoch
        # The metrics of all batches so far. They stay on the device to avoid a synchronisation per step. One tensor
        # holds them all, because many small tensors would fragment the device's memory.
        self._metrics = torch.zeros(steps, device=device())
        self._weights = torch.zeros(steps, dtype=torch.long)
        self._interval = max(1, ceil(steps / _STEP_ROWS))  # steps per row of steps.csv
        self._epoch_start = self._saved = self._recorded = time.monotonic()

    @property
    def epoch(self) -> int:
        """Return the number of the current epoch."""
        return int(self.curve[-1]["epoch"]) + 1 if self.curve else 1

    @property
    def batches_done(self) -> int:
        """Return the number of batches of the current epoch that are done."""
        return self._optimiser.steps_done - (self.epoch - 1) * self._batches

    def epoch_mean(self) -> float:
        """Return the mean metric of the batches of the current epoch so far."""
        done = slice(self._optimiser.steps_done - self.batches_done, self._optimiser.steps_done)
        return weighted_mean(self._metrics[done], self._weights[done])

    def should_stop(self) -> bool:
        """Return whether the best epoch is at least `patience` epochs ago. False if `patience` is None."""
        if not self.curve or self._config.patience is None:
            return False
        return self.curve[-1]["epoch"] - best_epoch(self.curve, self._config.monitor)["epoch"] >= self._config.patience

    def step(self, loss: Tensor, metric: Tensor, weight: int) -> None:
        """Take one optimiser step. Record the curves and save a checkpoint if the last ones are too old."""
        number = self._optimiser.steps_done
        self._optimiser.step(loss)
        if self._ema:
            self._ema.update(self._decoder)
        self._metrics[number], self._weights[number] = all_reduce_sum(metric.detach()), weight
        if time.monotonic() - self._recorded > _RECORD_SECONDS:
            self._record_steps()
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
        objective = self._objective
        metrics |= objective.validate(validated.eval())
        captions = greedy_captions(validated, objective.vocabulary, objective.val, objective.max_length)
        metrics |= val_scores(objective.val, captions)
        self.curve.append(metrics)
        if best_epoch(self.curve, self._config.monitor) is metrics:
            self.best = {name: tensor.clone() for name, tensor in validated.state_dict().items()}
        shown = [
            f"{name} {value:.3f}" for name, value in metrics.items() if name not in _NOT_PRINTED and not isnan(value)
        ]
        seconds, self._epoch_start = time.monotonic() - self._epoch_start, time.monotonic()
        print_once(f"epoch {metrics['epoch']}: {', '.join(shown)}; {seconds:.1f} s")
        self._print_captions(captions)
        self.record()
        self._save()

    def print_references(self) -> None:
        """Print the first reference of each image whose captions are printed after each epoch."""
        self._print_captions([captions[0] for captions in self._objective.val.references.values()], ", reference")

    def _print_captions(self, captions: Sequence[Sequence[str]], label: str = "") -> None:
        """Print the captions of a few images, spread over the val split. `captions` has one of each image."""
        image_ids, join = list(self._objective.val.references), self._objective.vocabulary.tokenizer.join
        for row in sorted({len(image_ids) * number // _SHOWN_IMAGES for number in range(_SHOWN_IMAGES)}):
            print_once(short_line(f"  image {image_ids[row]}{label}: {join(captions[row])}"))

    def record(self) -> None:
        """Give the recorder all curves so far."""
        if self._recorder and self.curve:
            self._recorder.write_epochs(self.curve, best_epoch(self.curve, self._config.monitor))
        self._record_steps()

    def _record_steps(self) -> None:
        if self._recorder:
            self._recorder.write_steps(self._step_rows(), self._objective.metric)
        self._recorded = time.monotonic()

    def _step_rows(self) -> list[EpochMetrics]:
        """Return the mean metric of each interval of steps. Its rows do not depend on when this method is called."""
        size, count = self._interval, self._optimiser.steps_done // self._interval
        metrics, weights = (x[: count * size].view(count, size).cpu() for x in (self._metrics, self._weights))
        means = np.average(metrics.double(), axis=1, weights=weights)
        return [{"step": size * row, self._objective.metric: mean} for row, mean in enumerate(means.tolist(), 1)]

    def _save(self) -> None:
        if self._checkpoint_path:
            save_checkpoint(self._checkpoint_path, self.state_dict())
            self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        done = self._optimiser.steps_done
        return {
            "decoder": self._decoder.state_dict(), "ema": self._ema.state_dict() if self._ema else None,
            "optimiser": self._optimiser.state_dict(), "curve": self.curve, "best": self.best,
            # Copies, because torch.save writes the whole tensor of a slice.
            "metrics": self._metrics[:done].clone(), "weights": self._weights[:done].clone(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._decoder.load_state_dict(state["decoder"])
        if self._ema:
            self._ema.load_state_dict(state["ema"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.curve, self.best = state["curve"], state["best"]
        self._metrics[: len(state["metrics"])] = state["metrics"]
        self._weights[: len(state["weights"])] = state["weights"]
