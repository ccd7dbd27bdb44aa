"""Self-critical training (Rennie et al. 2017): the decoder is rewarded for the CIDEr-D of what it writes.

The gradient of the expected reward of a caption w drawn from p is that of REINFORCE (Williams 1992),

    E[(r(w) - b) grad log p(w)],

for any baseline b that does not depend on w. Here b is the reward of the greedy caption of the same picture, which is
what will be written when it counts; or the mean reward of the picture's other samples (Luo 2020, "A better variant of
self-critical sequence training"). What beats the baseline becomes likelier, what falls short of it less likely.

The reward is that of `lib.finetuning.reward`, to which the end of a caption counts as a word. Without that,
breaking off before a word that might be wrong costs nothing, and captions end in "a man in a".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib.finetuning.reward import CiderReward
from lib.finetuning.sampling import SamplingConfig, sample, skip_draws
from lib.model.decoder import CaptionBatch, Decoder
from lib.model.decoding import greedy
from lib.runtime.device import device
from lib.runtime.distributed import shard
from lib.text.vocabulary import PAD, START, Vocabulary
from lib.training import loop
from lib.training.loop import EpochMetrics, no_loss, train
from lib.training.split import Split, greedy_scores


@dataclass(frozen=True, kw_only=True)
class SelfCriticalConfig(loop.TrainConfig):
    """How to train; see params.yaml."""

    batch_size: int  # images
    samples: int  # captions drawn of each
    baseline: str  # greedy, or mean: of the other samples


def finetune_decoder(
    decoder: Decoder,
    vocabulary: Vocabulary,
    train_split: Split,
    val: Split,
    recipe: SelfCriticalConfig,
    max_length: int,
    progress: Path | None = None,
) -> list[EpochMetrics]:
    """Trains `decoder`, which can write captions already, in place; see `lib.training.loop.train`.

    It stays as it came where no epoch makes it better: the learning curves begin with epoch 0. They hold `reward`, the
    mean CIDEr-D of the samples, and the scores of val's greedy captions. Captions have up to `max_length` words.
    """
    decoder.to(device())
    split = train_split.to(device())
    reward = CiderReward(list(split.references.values()), vocabulary)
    objective = SelfCritical(decoder, vocabulary, split, val.to(device()), reward, recipe, max_length)
    return train(decoder, objective, recipe, progress, from_zero=True)


@dataclass(frozen=True)
class SelfCritical:
    """To write captions of a higher reward than one's own others."""

    decoder: Decoder
    vocabulary: Vocabulary
    train: Split
    val: Split
    reward: CiderReward
    recipe: SelfCriticalConfig
    max_length: int
    figure: str = "reward"

    def batches(self, epoch: int) -> list[tuple[np.ndarray, int]]:
        """The images of each batch, and a seed for what is drawn of them."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        order, size = rng.permutation(len(self.train.references)), self.recipe.batch_size
        parts = np.split(order, range(size, len(order), size))
        return list(zip(parts, rng.integers(2**31, size=len(parts)).tolist(), strict=True))

    def loss(self, batch: tuple[np.ndarray, int]) -> tuple[Tensor, Tensor, int]:
        """What has the gradient of REINFORCE, the mean reward of the samples, and the number of images."""
        # Without dropout, so that the words are drawn from the very distribution that the gradient is taken of. Of all
        # else the mode stays: torch's cells have no backward pass on a GPU but while training.
        self.decoder.dropout.eval()
        all_images, seed = batch
        images = shard(all_images)
        if not len(images):
            return no_loss(), no_loss(), len(all_images)
        features = self.train.features_of(images)
        generator = torch.Generator().manual_seed(seed)
        # So that an image's samples do not depend on the number of processes.
        skip_draws(shard(range(len(all_images))).start * self.recipe.samples, self.max_length, generator)
        drawn = sample(self.decoder, features, self.recipe.samples, self.max_length, SamplingConfig(), generator)
        captions = [caption for of_image in drawn for caption in of_image]
        rewards = self.reward(images.repeat(self.recipe.samples).tolist(), captions).view(len(images), -1)  # (I, S)
        if self.recipe.baseline == "greedy":
            best = greedy(self.decoder, features, self.max_length)
            baselines = self.reward(images.tolist(), best)[:, None]  # (I, 1)
        else:
            baselines = leave_one_out(rewards)
        rows = torch.arange(len(images)).repeat_interleave(self.recipe.samples)
        log_p = log_probabilities(
            self.decoder, features, rows.to(device()), [caption.token_ids for caption in captions]
        )
        advantages = (rewards - baselines).flatten().to(log_p.device)  # (I S,)
        weight = len(images) / len(all_images)
        return -(advantages * log_p).mean() * weight, rewards.mean() * weight, len(all_images)

    def validate(self, decoder: Decoder) -> EpochMetrics:
        """The scores."""
        return greedy_scores(decoder, self.vocabulary, self.val, self.max_length)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Of rewards (I, S), for each the mean of the other samples of its image, (I, S)."""
    return (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def log_probabilities(
    decoder: Decoder, features: Tensor, image_rows: Tensor, captions: Sequence[Sequence[int]]
) -> Tensor:
    """The log-probability of each caption, (N,), with a gradient, among all that sampling may draw.

    features (I, P, C); image_rows (N,) says whose captions they are; `captions` are ids without <start>.
    """
    ids = pad_sequence([torch.tensor([START, *caption]) for caption in captions], True, PAD).to(features.device)
    lengths = torch.tensor([1 + len(caption) for caption in captions], device=features.device)
    read = CaptionBatch.of_lengths(image_rows, ids, lengths, sum(map(len, captions)))
    scores = decoder(features, read)  # (words, V)
    log_p = torch.log_softmax(scores.index_fill(1, decoder.suppressed_tokens, float("-inf")), dim=1)
    of_words = log_p.gather(1, read.words[:, None])[:, 0]  # (words,)
    return of_words.new_zeros(len(captions)).index_add(0, read.word_positions[0], of_words)
