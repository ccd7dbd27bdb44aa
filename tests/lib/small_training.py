"""A training of seconds, with dropout and averaging and a checkpoint after each batch, to be killed by a test."""

from pathlib import Path

import torch
import torch._dynamo  # else the first optimiser does, a second long, in each of the processes that are forked
from safetensors.torch import save_file

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from lib.training import cross_entropy, loop, self_critical
from lib.training.batches import caption_set
from lib.training.optimisation import make_deterministic
from lib.training.split import Split

WORDS = [chr(97 + i) for i in range(20)]
COMMON = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "seed": 1, "averaging": 0.9}


def train(how: str, checkpoint: Path | None, result: Path) -> None:
    """Trains by `how`, cross-entropy or self-critical, and writes weights and learning curve to `result`."""
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    torch.set_num_threads(1)
    captions = [[[WORDS[(i + j + k) % 20] for k in range(3 + j)] for j in range(3)] for i in range(40)]
    vocabulary = Vocabulary(WORDS)
    torch.manual_seed(0)
    features = torch.randn(40, 4, 8).half()
    split = Split(features, dict(enumerate(captions)), caption_set(captions, vocabulary, 20))
    make_deterministic(1)
    model = Decoder(DecoderConfig(4, 8, len(vocabulary), "lstm", "scratch", "additive", 16, 16, 0.3))
    if how == "cross-entropy":
        recipe = cross_entropy.Recipe(**COMMON, best_by="val_loss", label_smoothing=0.1)
        curve = cross_entropy.train_decoder(model, vocabulary, split, split, recipe, 10, checkpoint)
    else:
        recipe = self_critical.Recipe(**COMMON, best_by="val_cider_d", samples=2, baseline="greedy")
        curve = self_critical.finetune_decoder(model, vocabulary, split, split, recipe, 10, checkpoint)
    save_file(model.state_dict(), result, {"curve": repr(curve)})
