"""Self-critical training (Rennie et al. 2017): the reward is the CIDEr-D of the captions that the decoder samples.

The gradient of the expected reward of a caption w drawn from p is that of REINFORCE (Williams 1992),

    E[(r(w) - b) grad log p(w)],

for any baseline b that does not depend on w. Here b is the reward of the greedy caption of the same image, or the mean
reward of the image's other samples (Luo 2020, "A better variant of self-critical sequence training"). Captions above
the baseline become more probable, captions below it less.

The reward counts the end of a caption as a token (see `lib.finetuning.reward`). Otherwise a caption could stop before
an uncertain word at no cost, and captions would end in "a man in a".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
from lib.text.vocabulary import PAD, START
from lib.training.loop import Objective, TrainConfig, zero_loss


@dataclass(frozen=True, kw_only=True)
class SelfCriticalConfig(TrainConfig):
    """How to train; see params.yaml."""

    section = "finetune"
    samples: int  # captions drawn per image
    baseline: str  # greedy, or mean: the mean reward of the image's other samples


@dataclass(frozen=True)
class SelfCritical(Objective):
    """Reward samples of a trained decoder; `reward` in the learning curves is their mean CIDEr-D."""

    config: SelfCriticalConfig
    metric = "reward"
    keep_initial = True

    @cached_property
    def reward(self) -> CiderReward:
        """Return the reward against the references of the train split."""
        return CiderReward(list(self.train.references.values()), self.vocabulary)

    def batches(self, epoch: int) -> list[tuple[np.ndarray, int]]:
        """Return the images of each batch, and a seed for its samples."""
        rng = np.random.default_rng([self.config.seed, epoch])
        order, size = rng.permutation(len(self.train.references)), self.config.batch_size
        parts = np.split(order, range(size, len(order), size))
        return list(zip(parts, rng.integers(2**31, size=len(parts)).tolist(), strict=True))

    def loss(self, batch: tuple[np.ndarray, int]) -> tuple[Tensor, Tensor, int]:
        """Return the loss whose gradient is that of REINFORCE, the samples' mean reward, and the number of images."""
        # No dropout, because samples must come from the distribution whose gradient is taken. The other modules stay in
        # training mode, because on a GPU torch's cells have no backward pass in evaluation mode.
        self.decoder.dropout.eval()
        all_images, seed = batch
        images, samples = shard(all_images), self.config.samples
        if not len(images):
            return zero_loss(), zero_loss(), len(all_images)
        features = self.train.features_of(images)
        generator = torch.Generator().manual_seed(seed)
        # Skip the random draws of the processes with a lower rank, so that samples do not depend on the number of
        # processes.
        skip_draws(shard(range(len(all_images))).start * samples, self.max_length, generator)
        drawn = sample(self.decoder, features, samples, self.max_length, SamplingConfig(), generator)
        captions = [caption for of_image in drawn for caption in of_image]
        rewards = self.reward(images.repeat(samples).tolist(), captions).view(len(images), -1)  # (I, S)
        if self.config.baseline == "greedy":
            baselines = self.reward(images.tolist(), greedy(self.decoder, features, self.max_length))[:, None]  # (I, 1)
        else:
            baselines = leave_one_out(rewards)
        image_index = torch.arange(len(images)).repeat_interleave(samples).to(device())
        log_probs = caption_log_probs(self.decoder, features, image_index, [c.token_ids for c in captions])
        advantages = (rewards - baselines).flatten().to(log_probs.device)  # (I S,)
        weight = len(images) / len(all_images)
        return -(advantages * log_probs).mean() * weight, rewards.mean() * weight, len(all_images)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return, for each sample, the mean reward of the image's other samples. rewards (I, S) -> (I, S)."""
    return (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def caption_log_probs(
    decoder: Decoder, features: Tensor, image_index: Tensor, captions: Sequence[Sequence[int]]
) -> Tensor:
    """Return the log-probability of each caption, (N,), with a gradient. Suppressed tokens have probability 0.

    features (I, P, C); image_index (N,): the image of each caption; `captions` are token ids without <start>.
    """
    token_ids = pad_sequence([torch.tensor([START, *caption]) for caption in captions], True, PAD).to(features.device)
    lengths = torch.tensor([1 + len(caption) for caption in captions], device=features.device)
    batch = CaptionBatch.of_lengths(image_index, token_ids, lengths, sum(map(len, captions)))
    logits = decoder(features, batch)  # (num_tokens, V)
    log_probs = torch.log_softmax(logits.index_fill(1, decoder.suppressed_tokens, float("-inf")), dim=1)
    token_log_probs = log_probs.gather(1, batch.words[:, None])[:, 0]  # (num_tokens,)
    return token_log_probs.new_zeros(len(captions)).index_add(0, batch.word_positions[0], token_log_probs)
