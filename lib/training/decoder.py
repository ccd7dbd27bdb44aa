"""Teaching the decoder: teacher forcing with cross-entropy, and the best epoch kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.captioner.decoder import Decoder
from lib.captioner.greedy import greedy
from lib.compute import device
from lib.scoring import score
from lib.text.vocabulary import PAD, Vocabulary
from lib.training.batches import CaptionSet
from lib.training.optimisation import Optimiser
from lib.vision.features import Features

_DECODING_BATCH = 256  # images


@dataclass(frozen=True)
class Split:
    """One split: the images' features (I, P, C), their ids and reference tokens, and their captions as ids."""

    features: Features | Tensor  # never taken whole: what is on the disk may be larger than the memory
    references: dict[int, list[list[str]]]  # by image id, in the order of `features`
    captions: CaptionSet


@dataclass(frozen=True)
class Recipe:
    """How to train; see params.yaml."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    best_by: str  # val_loss, or a score: val_bleu_4, val_cider_d
    seed: int


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
    decoder: Decoder, vocabulary: Vocabulary, train: Split, val: Split, recipe: Recipe, max_length: int
) -> list[Epoch]:
    """Trains `decoder` in place and leaves it, in evaluation mode, as it was after its best epoch.

    `recipe.best_by` says which is the best. Returns the learning curves.
    """
    rng = np.random.default_rng(recipe.seed)
    decoder.to(device())
    decoder.fit_standardisation(train.features.split(_DECODING_BATCH))
    steps_per_epoch = -(-len(train.captions.ids) // recipe.batch_size)
    optimiser = Optimiser(
        decoder.parameters(), recipe.learning_rate, recipe.epochs * steps_per_epoch, recipe.weight_decay
    )
    curve: list[Epoch] = []
    best: dict[str, Tensor] = {}
    for number in range(1, recipe.epochs + 1):
        decoder.train()
        batches = tqdm(
            train.captions.batches(recipe.batch_size, rng),
            f"epoch {number} of {recipe.epochs}", steps_per_epoch, leave=False, unit="batch", disable=None,
        )  # fmt: skip
        losses = _WordMean()
        for rows, captions in batches:
            loss, words = _loss(decoder, train.features, rows, captions, recipe.label_smoothing)
            optimiser.step(loss)
            losses.add(loss, words)
        decoder.eval()
        scores = score(val.references, write_captions(decoder, vocabulary, val.features, val.references, max_length))
        epoch = Epoch(
            number, losses.value, mean_loss(decoder, val.features, val.captions, recipe.batch_size),
            scores["bleu_4"], scores["cider_d"],
        )  # fmt: skip
        curve.append(epoch)
        if best_epoch(curve, recipe.best_by) is epoch:
            best = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
        print(
            f"epoch {number}: train loss {epoch.train_loss:.3f}, val loss {epoch.val_loss:.3f}, "
            f"val BLEU-4 {epoch.val_bleu_4:.3f}, val CIDEr-D {epoch.val_cider_d:.3f}",
            flush=True,
        )
    decoder.load_state_dict(best)
    return curve


def write_captions(
    decoder: Decoder,
    vocabulary: Vocabulary,
    features: Features | Tensor,
    image_ids: Iterable[int],
    max_length: int,
) -> dict[int, list[str]]:
    """Greedy captions, tokens by image id. features (I, P, C), in the order of `image_ids`."""
    parts = (part.to(device()) for part in features.split(_DECODING_BATCH))
    written = [ids for part in parts for ids in greedy(decoder, part, max_length)]
    return {image_id: vocabulary.decode(ids) for image_id, ids in zip(image_ids, written, strict=True)}


@dataclass
class _WordMean:
    """The mean over words of losses that come as means over the words of a batch."""

    total: float = 0.0
    words: int = 0

    def add(self, loss: Tensor, words: int) -> None:
        self.total += loss.item() * words
        self.words += words

    @property
    def value(self) -> float:
        return self.total / self.words


@torch.inference_mode()
def mean_loss(decoder: Decoder, features: Features | Tensor, captions: CaptionSet, batch_size: int) -> float:
    """Cross-entropy per word, in nats, teacher-forced."""
    losses = _WordMean()
    for rows, batch in captions.batches(batch_size):
        losses.add(*_loss(decoder, features, rows, batch, label_smoothing=0.0))
    return losses.value


def _loss(
    decoder: Decoder, features: Features | Tensor, rows: Tensor, captions: Tensor, label_smoothing: float
) -> tuple[Tensor, int]:
    """The mean cross-entropy of the words of a batch, and how many there are."""
    images, image_rows = torch.unique(rows, return_inverse=True)  # an image with several captions enters once
    captions = captions.to(device())
    words = captions[:, 1:][captions[:, 1:] != PAD]  # (words,)
    scores = decoder(features[images].to(device()), image_rows.to(device()), captions)  # (words, V)
    return nn.functional.cross_entropy(scores, words, label_smoothing=label_smoothing), len(words)
