"""Train a CNN to predict the phrases in an image's captions: words and pairs of adjacent words."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.core.errors import UserError
from lib.optim.checkpoint import load_checkpoint, save_checkpoint
from lib.optim.optimiser import EMA, Optimiser
from lib.runtime.device import device
from lib.vision.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to train; see params.yaml."""

    section: ClassVar = "backbone.fit"  # section of params.yaml, for error messages
    epochs: int
    batch_size: int
    learning_rate: float
    min_count: int
    seed: int


def phrase_shares(captions: Sequence[Sequence[Sequence[str]]], config: PretrainConfig) -> Tensor:
    """Return the fraction of each image's captions that contain each phrase, (I, W).

    captions[i] are the token lists of image i. Raises UserError if no phrase is in `config.min_count` captions.
    """
    phrases_of = [[{*tokens, *pairwise(tokens)} for tokens in image] for image in captions]
    counts = Counter(phrase for image in phrases_of for phrases in image for phrase in phrases)
    kept = sorted((phrase for phrase, n in counts.items() if n >= config.min_count), key=str)
    if not kept:
        key = f"{config.section}.min_count={config.min_count}"
        raise UserError(
            f"{key}: no word is in that many captions of the train split. Use a lower value; 1 keeps every word."
        )
    columns = {phrase: column for column, phrase in enumerate(kept)}
    shares = torch.zeros(len(captions), len(columns))
    for row, image in zip(shares, phrases_of, strict=True):
        for phrase in (phrase for phrases in image for phrase in phrases if phrase in columns):
            row[columns[phrase]] += 1 / len(image)
    return shares


def learn_phrases(
    backbone: Backbone,
    pixels: np.ndarray,
    targets: Tensor,
    head: nn.Module,
    predict: Callable[[Tensor], Tensor],
    config: PretrainConfig,
    checkpoint_path: Path,
    ema: EMA | None = None,
) -> None:
    """Train the backbone's network and `head` in place, by binary cross-entropy. Both are on `device()`.

    pixels (I, size, size, 3) uint8, preprocessed; targets (I, W) in [0, 1]; `predict` returns the logits (N, W) of
    normalised pixels (N, 3, size, size); `ema` is updated after each step. An interrupted run with the same arguments
    resumes from `checkpoint_path` after its last epoch. Raises UserError if training diverges.
    """
    size = min(config.batch_size, len(pixels))
    used = len(pixels) // size * size  # batches of equal size, for batch normalisation; each epoch skips a few images
    modules = nn.ModuleDict({"network": backbone.network, "head": head})
    steps = config.epochs * (used // size)
    optimiser = Optimiser(modules.parameters(), config.learning_rate, steps, weight_decay=0.01)
    if ema:
        modules["ema"] = ema
    done = 0
    if state := load_checkpoint(checkpoint_path):
        modules.load_state_dict(state["modules"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["epoch"]
    for epoch in range(done + 1, config.epochs + 1):
        start = time.monotonic()
        torch.manual_seed((config.seed * 1000 + epoch) % 2**63)
        batches, total = torch.randperm(len(pixels))[:used].split(size), 0.0
        for images in tqdm(batches, f"epoch {epoch} of {config.epochs}", leave=False, unit="batch", disable=None):
            logits = predict(backbone.preprocess.normalise(torch.from_numpy(pixels[images.numpy()]).to(device())))
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, targets[images].to(device()), reduction="none"
            )
            loss = losses.sum(1).mean()
            optimiser.step(loss)
            if ema:
                ema.update(backbone.network)
            total += loss.item()
        if not isfinite(total):
            raise UserError(
                f"{config.section}.learning_rate={config.learning_rate}: non-finite loss of the CNN in epoch {epoch}; "
                "training diverged. Use a lower learning rate."
            )
        seconds = time.monotonic() - start
        print(f"epoch {epoch}: phrase loss {total / len(batches):.3f}; {seconds:.1f} s", flush=True)
        state = {"epoch": epoch, "modules": modules.state_dict(), "optimiser": optimiser.state_dict()}
        save_checkpoint(checkpoint_path, state)
