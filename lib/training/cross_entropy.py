"""Cross-entropy training: the decoder learns to predict each token of a caption from the tokens before it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib.model.decoder import Decoder
from lib.runtime.device import device
from lib.runtime.distributed import all_gather, shard
from lib.training.data import Split
from lib.training.loop import EpochMetrics, Objective, TrainConfig, weighted_mean, zero_loss

_STANDARDISATION_BATCH = 256  # images


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(TrainConfig):
    """How to train; see params.yaml."""

    section = "train"
    label_smoothing: float = 0.0
    bucket_by_length: bool = True
    by_image: bool = False
    precision: str = "float32"  # float32 or bfloat16


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Teacher forcing: the decoder reads the reference's tokens, not its own.

    Both losses are means per token in nats. train_loss includes label smoothing and dropout; val_loss does not.
    """

    config: CrossEntropyConfig
    metric = "train_loss"

    def prepare(self) -> None:
        """Fit the decoder's standardisation of the features."""
        self.decoder.fit_standardisation(self.train.features.split(_STANDARDISATION_BATCH))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the caption indices of each batch."""
        rng = np.random.default_rng([self.config.seed, epoch])
        return self.train.captions.batches(self.config.batch_size, rng, by_image=self.config.by_image)

    def loss(self, batch: np.ndarray) -> tuple[Tensor, Tensor, int]:
        """Return the mean cross-entropy per token, once as loss and once as metric, and the number of tokens."""
        own, num_tokens = shard(batch), self.train.captions.num_tokens(batch)
        if not len(own):
            return zero_loss(), zero_loss(), num_tokens
        config = self.config
        mean, own_tokens = batch_loss(
            self.decoder, self.train, own, bucket_by_length=config.bucket_by_length,
            label_smoothing=config.label_smoothing, precision=config.precision,
        )  # fmt: skip
        loss = mean * (own_tokens / num_tokens)
        return loss, loss, num_tokens

    def validate(self, decoder: Decoder) -> EpochMetrics:
        """Return val_loss."""
        return {"val_loss": mean_loss(decoder, self.val, self.config.batch_size)}


@torch.inference_mode()
def mean_loss(decoder: Decoder, split: Split, batch_size: int) -> float:
    """Return the teacher-forced cross-entropy per token, in nats."""
    batches = split.captions.batches(batch_size)
    own = shard(batches)  # whole batches, so that each loss has the same bits for any number of processes
    losses = torch.zeros(len(own), device=device())
    for number, batch in enumerate(own):
        losses[number], _ = batch_loss(decoder, split, batch)
    return weighted_mean(all_gather(losses), [split.captions.num_tokens(batch) for batch in batches])


def batch_loss(
    decoder: Decoder,
    split: Split,
    captions: np.ndarray,
    *,
    bucket_by_length: bool = True,
    label_smoothing: float = 0.0,
    precision: str = "float32",
) -> tuple[Tensor, int]:
    """Return the mean cross-entropy per token of the captions with these indices, and the number of tokens."""
    batch = split.captions.take(captions, bucket_by_length=bucket_by_length)
    features, targets = split.features_of(batch.images), batch.targets
    with torch.autocast(features.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = decoder(features, *batch.parts)  # (num_tokens, V)
    return nn.functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing), len(targets)
