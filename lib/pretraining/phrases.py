"""Teaching a CNN what the captions of a picture say: which words and pairs of words they hold."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.core.errors import UserError
from lib.optim.optimiser import EMA, Optimiser
from lib.pretraining.epochs import epochs_left
from lib.runtime.device import device
from lib.vision.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to teach them; see params.yaml."""

    epochs: int
    batch_size: int
    learning_rate: float
    min_count: int
    seed: int


def phrase_shares(captions: Sequence[Sequence[Sequence[str]]], min_count: int) -> Tensor:
    """The share of each image's captions that hold a phrase, (I, W); captions[i] are the token lists of image i.

    The phrases are the words, and the pairs of words side by side, of at least `min_count` captions. Raises UserError
    where there is none.
    """
    held = [[{*tokens, *pairwise(tokens)} for tokens in image] for image in captions]
    counts = Counter(phrase for image in held for phrases in image for phrase in phrases)
    kept = sorted((phrase for phrase, n in counts.items() if n >= min_count), key=str)
    if not kept:
        raise UserError(
            f"no word is in as many captions of the train split as min_count asks for, {min_count}: lower it"
        )
    columns = {phrase: column for column, phrase in enumerate(kept)}
    shares = torch.zeros(len(captions), len(columns))
    for row, image in zip(shares, held, strict=True):
        for phrase in (phrase for phrases in image for phrase in phrases if phrase in columns):
            row[columns[phrase]] += 1 / len(image)
    return shares


def learn_phrases(
    backbone: Backbone,
    pixels: np.ndarray,
    wanted: Tensor,
    head: nn.Module,
    scores: Callable[[Tensor], Tensor],
    recipe: PretrainConfig,
    progress: Path,
    mean: EMA | None = None,
) -> None:
    """Trains the network of `backbone`, and `head`, both on `device()`, in place, by cross-entropy.

    pixels (I, size, size, 3) uint8, preprocessed; wanted (I, W) is what is to be answered, from 0 to 1; `scores` gives
    the logits (N, W) of normalised pixels (N, 3, size, size). `mean` follows the network after each step. `progress` is
    the file of a checkpoint, see `epochs_left`. Raises UserError where training diverges.
    """
    size = min(recipe.batch_size, len(pixels))
    used = len(pixels) // size * size  # the last few of each epoch's order are left out: batch norm wants equal batches
    learned = nn.ModuleDict({"network": backbone.network, "head": head})
    optimiser = Optimiser(learned.parameters(), recipe.learning_rate, recipe.epochs * (used // size), weight_decay=0.01)
    kept: dict[str, nn.Module] = {"learned": learned, "mean": mean} if mean else {"learned": learned}
    for epoch in epochs_left(recipe.epochs, recipe.seed, progress, optimiser, **kept):
        order, losses = torch.randperm(len(pixels))[:used].split(size), 0.0
        for images in tqdm(order, f"epoch {epoch} of {recipe.epochs}", leave=False, unit="batch", disable=None):
            found = scores(backbone.preprocess.normalise(torch.from_numpy(pixels[images.numpy()]).to(device())))
            answers = wanted[images].to(device())
            loss = nn.functional.binary_cross_entropy_with_logits(found, answers, reduction="none").sum(1).mean()
            optimiser.step(loss)
            if mean:
                mean.update(backbone.network)
            losses += loss.item()
        if not isfinite(losses):
            raise UserError(f"the CNN came to weights that are no numbers in epoch {epoch}: lower the learning rate")
        print(f"epoch {epoch}: loss of the words {losses / len(order):.3f}", flush=True)
