"""Teaching the decoder by cross-entropy: each word of a caption is to be guessed from those before it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.model.decoder import Decoder
from lib.runtime.device import device
from lib.runtime.distributed import all_gather, is_main_process, shard
from lib.text.vocabulary import Vocabulary
from lib.training import loop
from lib.training.loop import EpochMetrics, no_loss, train
from lib.training.split import Split, greedy_scores


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(loop.TrainConfig):
    """How to train; see params.yaml."""

    batch_size: int  # captions
    label_smoothing: float = 0.0
    bucket_by_length: bool = True
    by_image: bool = False
    precision: str = "float32"  # or bfloat16


def train_decoder(
    decoder: Decoder,
    vocabulary: Vocabulary,
    train_split: Split,
    val: Split,
    recipe: CrossEntropyConfig,
    max_length: int,
    progress: Path | None = None,
) -> list[EpochMetrics]:
    """Trains `decoder` in place, the standardisation of its features included; see `lib.training.loop.train`.

    The learning curves hold train_loss, which is what is learned from, with label smoothing and dropout, and val_loss,
    without them, means over words in nats; and the scores of val's greedy captions of up to `max_length` words.
    """
    decoder.to(device())
    if is_main_process():  # the others copy it, with the weights
        decoder.fit_standardisation(train_split.parts())
    objective = CrossEntropy(decoder, vocabulary, train_split.to(device()), val.to(device()), recipe, max_length)
    return train(decoder, objective, recipe, progress)


@dataclass(frozen=True)
class CrossEntropy:
    """Teacher forcing: the words before the one to be guessed are people's, not the decoder's."""

    decoder: Decoder
    vocabulary: Vocabulary
    train: Split
    val: Split
    recipe: CrossEntropyConfig
    max_length: int
    figure: str = "train_loss"

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The captions of each batch."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        return self.train.captions.batches(self.recipe.batch_size, rng, by_image=self.recipe.by_image)

    def loss(self, batch: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """The mean cross-entropy of a word, smoothed as the recipe says, as loss and as figure; the number of words."""
        own, words = shard(batch), self.train.captions.words(batch)
        if not len(own):
            return no_loss(), no_loss(), words
        recipe = self.recipe
        mean, own_words = batch_loss(
            self.decoder, self.train, own, bucket_by_length=recipe.bucket_by_length, label_smoothing=recipe.label_smoothing,
            precision=recipe.precision,
        )  # fmt: skip
        loss = mean * (own_words / words)
        return loss, loss, words

    def validate(self, decoder: Decoder) -> EpochMetrics:
        """val_loss, and the scores."""
        scores = greedy_scores(decoder, self.vocabulary, self.val, self.max_length)
        return {"val_loss": mean_loss(decoder, self.val, self.recipe.batch_size), **scores}


@torch.inference_mode()
def mean_loss(decoder: Decoder, split: Split, batch_size: int) -> float:
    """Cross-entropy per word, in nats, teacher-forced."""
    batches = split.captions.batches(batch_size)
    own = shard(batches)  # whole batches, whose losses are the same bits whoever computes them
    losses = torch.zeros(len(own), device=device())
    for number, batch in enumerate(own):
        losses[number], _ = batch_loss(decoder, split, batch)
    weights = [split.captions.words(batch) for batch in batches]
    return float(np.average(all_gather(losses).cpu().double(), weights=weights))


def batch_loss(
    decoder: Decoder,
    split: Split,
    batch: np.ndarray,
    *,
    bucket_by_length: bool = True,
    label_smoothing: float = 0.0,
    precision: str = "float32",
) -> tuple[Tensor, int]:
    """The mean cross-entropy of the words of a batch of captions, and how many there are."""
    taken = split.captions.take(batch, bucket_by_length=bucket_by_length)
    features, words = split.features_of(taken.images), taken.words
    with torch.autocast(features.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        scores = decoder(features, *taken.parts)  # (words, V)
    return nn.functional.cross_entropy(scores.float(), words, label_smoothing=label_smoothing), len(words)
