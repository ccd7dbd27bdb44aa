"""Trainings of a second or so: their data, decoder and recipes, and one to be killed by a test."""

from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # else the first optimiser does, a second long, in each of the processes that are forked
from safetensors.torch import save_file

from lib.finetuning import self_critical
from lib.model.decoder import Decoder, DecoderConfig
from lib.optim.optimiser import make_deterministic
from lib.text.vocabulary import Vocabulary
from lib.training import cross_entropy, loop
from lib.training.batches import caption_set
from lib.training.split import Split

WORDS = [chr(97 + i) for i in range(20)]
VOCABULARY = Vocabulary(WORDS)
LONGEST = 8
COMMON = {"epochs": 3, "learning_rate": 0.01, "seed": 1, "batch_size": 7, "ema_decay": 0.9}
CROSS_ENTROPY = cross_entropy.CrossEntropyConfig(**COMMON, monitor="val_loss", label_smoothing=0.1)
SELF_CRITICAL = self_critical.SelfCriticalConfig(**COMMON, monitor="val_cider_d", samples=3, baseline="mean")


def data(images: int = 23) -> Split:
    """Captions of one to seven words, one to three an image."""
    captions = [
        [[WORDS[(i + j + k) % 20] for k in range(1 + (i + 2 * j) % 7)] for j in range(1 + i % 3)] for i in range(images)
    ]
    features = torch.randn(images, 4, 6, generator=torch.Generator().manual_seed(0))
    return Split(features, dict(enumerate(captions)), caption_set(captions, VOCABULARY, LONGEST))


def decoder(attention: str = "additive", dropout: float = 0.0) -> Decoder:
    make_deterministic(1)
    return Decoder(DecoderConfig(4, 6, len(VOCABULARY), "lstm", "scratch", attention, 12, 12, dropout))


def train(how: str, checkpoint: Path | None, result: Path) -> None:
    """Trains by `how`, cross-entropy or self-critical, with dropout, averaging and a checkpoint after each batch.

    Writes weights and learning curve to `result`.
    """
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    torch.set_num_threads(1)
    model, split = decoder(dropout=0.3), data(60)
    if how == "cross-entropy":
        curve = cross_entropy.train_decoder(model, VOCABULARY, split, split, CROSS_ENTROPY, LONGEST, checkpoint)
    else:
        recipe = replace(SELF_CRITICAL, baseline="greedy")
        curve = self_critical.finetune_decoder(model, VOCABULARY, split, split, recipe, LONGEST, checkpoint)
    save_file(model.state_dict(), result, {"curve": repr(curve)})
