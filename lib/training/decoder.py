"""Teaching the decoder: teacher forcing with cross-entropy, and the best epoch kept."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from lib.captioner.decoder import Decoder
from lib.captioner.greedy import greedy
from lib.compute import device
from lib.scoring import score
from lib.text.vocabulary import Vocabulary
from lib.training.batches import CaptionSet, targets
from lib.training.checkpoint import load_checkpoint, save_checkpoint
from lib.training.optimisation import Optimiser
from lib.vision.features import Features

_DECODING_BATCH = 256  # images
_SECONDS_BETWEEN_CHECKPOINTS = 120.0


@dataclass(frozen=True)
class Split:
    """One split: the images' features (I, P, C), their ids and reference tokens, and their captions as ids."""

    features: Features | Tensor  # never taken whole: what is on the disk may be larger than the memory
    references: dict[int, list[list[str]]]  # by image id, in the order of `features`
    captions: CaptionSet

    def to(self, device: torch.device) -> "Split":
        """The same with all that training reads again and again on `device`; grids stay where they are."""
        pooled = self.features.shape[1] == 1
        return Split(
            self.features[:].to(device) if pooled else self.features, self.references, self.captions.to(device)
        )


@dataclass(frozen=True)
class Recipe:
    """How to train; see params.yaml."""

    epochs: int
    batch_size: int  # captions
    learning_rate: float
    best_by: str  # val_loss, or a score: val_bleu_4, val_cider_d
    seed: int
    warm_up: float = 0.05
    decay: str = "cosine"  # or none
    weight_decay: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    averaging: float = 0.0
    bucketing: bool = True
    by_image: bool = False
    precision: str = "float32"  # or bfloat16
    patience: int | None = None


@dataclass(frozen=True)
class Epoch:
    """A row of the learning curves. Losses are means over words, in nats; scores are of greedy captions."""

    epoch: int
    train_loss: float
    val_loss: float
    val_bleu_4: float
    val_cider_d: float


def best_epoch(curve: Sequence[Epoch], best_by: str) -> Epoch:
    """The epoch with the lowest loss, or the highest score; the first of equals."""
    return min(curve, key=lambda epoch: epoch.val_loss if best_by == "val_loss" else -getattr(epoch, best_by))


def train_decoder(
    decoder: Decoder,
    vocabulary: Vocabulary,
    train: Split,
    val: Split,
    recipe: Recipe,
    max_length: int,
    progress: Path | None = None,
) -> list[Epoch]:
    """Trains `decoder` in place and leaves it, in evaluation mode, as it was after its best epoch.

    `recipe.best_by` says which is the best. Returns the learning curves. `progress` is the file of a checkpoint: a
    run that is interrupted, and started again with the same arguments, goes on from it and ends in the same weights.
    """
    train, val = train.to(device()), val.to(device())
    decoder.to(device())
    decoder.fit_standardisation(train.features.split(_DECODING_BATCH))
    steps = recipe.epochs * len(_plan(train.captions, recipe, 1))  # every epoch has as many batches
    run = _Run(decoder, recipe, steps)
    if progress:
        run.restore(progress)
    saved = time.monotonic()
    for number in range(len(run.curve) + 1, recipe.epochs + 1):
        if run.stale:
            print(f"no better for {recipe.patience} epochs: stopped", flush=True)
            break
        decoder.train()
        plan, done = _plan(train.captions, recipe, number), len(run.losses)
        batches = tqdm(
            plan[done:], f"epoch {number} of {recipe.epochs}", len(plan), leave=False, unit="batch", disable=None,
            initial=done,
        )  # fmt: skip
        for batch in batches:
            run.step(*_loss(decoder, train, batch, recipe.label_smoothing, recipe.precision))
            if progress and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                run.save(progress)
                saved = time.monotonic()
        kept = run.kept.eval()
        scores = score(val.references, write_captions(kept, vocabulary, val.features, val.references, max_length))
        val_loss = mean_loss(kept, val, recipe.batch_size)
        epoch = Epoch(number, run.losses.value, val_loss, scores["bleu_4"], scores["cider_d"])
        run.end(epoch)
        print(
            f"epoch {number}: train loss {epoch.train_loss:.3f}, val loss {epoch.val_loss:.3f}, "
            f"val BLEU-4 {epoch.val_bleu_4:.3f}, val CIDEr-D {epoch.val_cider_d:.3f}",
            flush=True,
        )
        if progress:
            run.save(progress)
    decoder.load_state_dict(run.best)
    decoder.eval()
    return run.curve


def _plan(captions: CaptionSet, recipe: Recipe, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch. They follow from seed and epoch alone, so that a run can be taken up in its midst."""
    rng = np.random.default_rng([recipe.seed, epoch])
    return captions.batches(recipe.batch_size, rng, by_image=recipe.by_image, bucketing=recipe.bucketing)


class _Run:
    """Where a training stands: all that its next steps depend on, and what came of those so far."""

    def __init__(self, decoder: Decoder, recipe: Recipe, steps: int):
        self._decoder, self._recipe = decoder, recipe
        self._optimiser = Optimiser(
            decoder.parameters(), recipe.learning_rate, steps, recipe.weight_decay,
            warm_up=recipe.warm_up, decay=recipe.decay == "cosine", clip=recipe.clip,
        )  # fmt: skip
        mean = partial(_running_mean, recipe.averaging)
        self._averaged = AveragedModel(decoder, multi_avg_fn=mean) if recipe.averaging else None
        self.losses = _WordMean()  # of the epoch's batches so far
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] = {}  # the kept weights after the best epoch

    @property
    def kept(self) -> Decoder:
        """The decoder whose weights count: the running mean, or the one that learns."""
        return cast("Decoder", self._averaged.module) if self._averaged else self._decoder

    @property
    def stale(self) -> bool:
        """If the last `patience` epochs brought nothing better."""
        if not self.curve or self._recipe.patience is None:
            return False
        return len(self.curve) - best_epoch(self.curve, self._recipe.best_by).epoch >= self._recipe.patience

    def step(self, loss: Tensor, words: int) -> None:
        """Learns from the loss of a batch, a mean over `words`."""
        self._optimiser.step(loss)
        if self._averaged:
            self._averaged.update_parameters(self._decoder)
        self.losses.add(loss, words)

    def end(self, epoch: Epoch) -> None:
        """Notes how an epoch went, and keeps the weights if none went better."""
        self.curve.append(epoch)
        self.losses = _WordMean()
        if best_epoch(self.curve, self._recipe.best_by) is epoch:
            self.best = {name: tensor.clone() for name, tensor in self.kept.state_dict().items()}

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        parts = {
            "decoder": self._decoder.state_dict(), "best": self.best,
            "averaged": self._averaged.state_dict() if self._averaged else {},
            "optimiser": self._optimiser.state(), "losses": self.losses.state(),
        }  # fmt: skip
        save_checkpoint(path, parts, [asdict(epoch) for epoch in self.curve])

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint, if there is one."""
        if found := load_checkpoint(path, device()):
            parts, curve = found
            self._decoder.load_state_dict(parts["decoder"])
            if self._averaged:
                self._averaged.load_state_dict(parts["averaged"])
            self._optimiser.restore(parts["optimiser"])
            self.losses, self.best = _WordMean(parts.get("losses")), parts.get("best", {})
            self.curve = [Epoch(**row) for row in curve]


def _running_mean(decay: float, means: list[Tensor], weights: list[Tensor], count: int | Tensor) -> None:
    """Draws the means of the weights towards them (Polyak & Juditsky 1992); at first, faster."""
    torch._foreach_lerp_(means, weights, 1 - min(decay, (1 + int(count)) / (10 + int(count))))


def write_captions(
    decoder: Decoder,
    vocabulary: Vocabulary,
    features: Features | Tensor,
    image_ids: Iterable[int],
    max_length: int,
) -> dict[int, list[str]]:
    """Greedy captions, tokens by image id. features (I, P, C), in the order of `image_ids`."""
    parts = (part.to(device()) for part in features.split(_DECODING_BATCH))
    written = [caption.ids for part in parts for caption in greedy(decoder, part, max_length)]
    return {image_id: vocabulary.decode(ids) for image_id, ids in zip(image_ids, written, strict=True)}


class _WordMean:
    """The mean over words of losses that come as means over the words of a batch."""

    def __init__(self, state: Mapping[str, Tensor] | None = None):
        """None so far, or those that `state` gave."""
        # Left on the device: to ask for each would be to wait for it.
        self._losses: list[Tensor] = list(state["losses"]) if state else []
        self._words: list[int] = state["words"].tolist() if state else []

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, loss: Tensor, words: int) -> None:
        self._losses.append(loss.detach())
        self._words.append(words)

    @property
    def value(self) -> float:
        return float(np.average(torch.stack(self._losses).double().cpu(), weights=self._words))

    def state(self) -> dict[str, Tensor]:
        return {"losses": torch.stack(self._losses), "words": torch.tensor(self._words)} if self._losses else {}


@torch.inference_mode()
def mean_loss(decoder: Decoder, split: Split, batch_size: int) -> float:
    """Cross-entropy per word, in nats, teacher-forced."""
    losses = _WordMean()
    for batch in split.captions.batches(batch_size, by_image=decoder.attends):
        losses.add(*_loss(decoder, split, batch))
    return losses.value


def _loss(
    decoder: Decoder, split: Split, batch: np.ndarray, label_smoothing: float = 0.0, precision: str = "float32"
) -> tuple[Tensor, int]:
    """The mean cross-entropy of the words of a batch of captions, and how many there are."""
    rows, captions = split.captions.take(batch)  # (N,), (N, T)
    images, image_rows = torch.unique(rows, return_inverse=True)  # an image with several captions enters once
    words = targets(captions)
    features = split.features[images].to(rows.device)
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        scores = decoder(features, image_rows, captions)  # (words, V)
    return nn.functional.cross_entropy(scores.float(), words, label_smoothing=label_smoothing), len(words)
