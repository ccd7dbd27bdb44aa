"""Training that takes about 1 s: data, decoder and configs, and a run that a test kills."""

from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # imported once, because otherwise each forked process takes 1 s to import it
from safetensors.torch import save_file

from lib.finetuning.self_critical import SelfCritical, SelfCriticalConfig
from lib.model.decoder import Decoder, DecoderConfig
from lib.optim.optimiser import make_deterministic
from lib.text.vocabulary import Vocabulary
from lib.training import loop
from lib.training.batches import caption_set
from lib.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from lib.training.data import Split
from lib.training.loop import Objective, train_decoder
from lib.training.recorder import Recorder

WORDS = [chr(97 + i) for i in range(20)]
VOCABULARY = Vocabulary(WORDS)
MAX_LENGTH = 8
COMMON = {"epochs": 3, "learning_rate": 0.01, "seed": 1, "batch_size": 7, "ema_decay": 0.9}
CROSS_ENTROPY = CrossEntropyConfig(**COMMON, monitor="val_loss", label_smoothing=0.1)
SELF_CRITICAL = SelfCriticalConfig(**COMMON, monitor="val_cider_d", samples=3, baseline="mean")


def data(images: int = 23) -> Split:
    """Return captions of one to seven words, one to three per image."""
    captions = [
        [[WORDS[(i + j + k) % 20] for k in range(1 + (i + 2 * j) % 7)] for j in range(1 + i % 3)] for i in range(images)
    ]
    features = torch.randn(images, 4, 6, generator=torch.Generator().manual_seed(0))
    return Split(features, dict(enumerate(captions)), caption_set(captions, VOCABULARY, MAX_LENGTH))


def decoder(attention: str = "additive", dropout: float = 0.0) -> Decoder:
    make_deterministic(1)
    return Decoder(DecoderConfig(4, 6, len(VOCABULARY), "lstm", "scratch", attention, 12, 12, dropout))


def train(objective: str, checkpoint: Path | None, result: Path) -> None:
    """Train with dropout, EMA and a checkpoint after each batch; write weights and curves to the folder `result`."""
    loop._CHECKPOINT_SECONDS = loop._RECORD_SECONDS = 0.0
    torch.set_num_threads(1)
    model, split = decoder(dropout=0.3), data(60)
    config = replace(SELF_CRITICAL, baseline="greedy")
    objectives: dict[str, Objective] = {
        "cross-entropy": CrossEntropy(model, VOCABULARY, split, split, CROSS_ENTROPY, MAX_LENGTH),
        "self-critical": SelfCritical(model, VOCABULARY, split, split, config, MAX_LENGTH),
    }
    curve = train_decoder(objectives[objective], checkpoint, Recorder(result))
    save_file(model.state_dict(), result / "weights", {"curve": repr(curve)})
