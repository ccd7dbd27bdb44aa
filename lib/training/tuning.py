"""Teaching a CNN that was trained to name objects what people say of pictures, before its features are extracted.

ImageNet's thousand kinds leave out most of what captions are about: people, what they wear and do, and where. So the
feature vector is asked, through a linear layer that is thrown away after, which words the picture's captions hold; the
answer to be learned is, for each word, the share of the captions that hold it (Fang et al. 2015, "From captions to
visual concepts and back"; Wu et al. 2016, "What value do explicit high level concepts have in vision to language
problems?"). Pictures are cropped and mirrored at random. Batch normalisation keeps the statistics that the weights
came with.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from lib.compute import device
from lib.errors import UserError
from lib.training.checkpoint import load_checkpoint, save_checkpoint
from lib.training.optimisation import Optimiser
from lib.vision.backbones import Backbone, for_inference

_SMALLEST_CROP = 0.5  # of the picture's area


@dataclass(frozen=True)
class Recipe:
    """How to tune; see params.yaml."""

    epochs: int
    batch_size: int
    learning_rate: float
    min_count: int
    seed: int


def tune_backbone(
    backbone: Backbone,
    pixels: np.ndarray,
    captions: Sequence[Sequence[Sequence[str]]],
    recipe: Recipe,
    progress: Path,
) -> None:
    """Trains `backbone` in place and leaves it in evaluation mode.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i. `progress` is the file
    of a checkpoint: a run that is interrupted, and started again with the same arguments, repeats at most an epoch.
    Raises UserError for fewer than two pictures.
    """
    if len(pixels) < 2:
        raise UserError("backbone.tune needs at least two pictures in the train split")
    shares = word_shares(captions, recipe.min_count)  # (I, W)
    network = for_inference(backbone.network).to(device())
    head = _head(network(backbone.preprocess.normalise(torch.from_numpy(pixels[:1]).to(device()))).shape[1], shares)
    size = min(recipe.batch_size, len(pixels))
    used = len(pixels) // size * size  # the last few of each epoch's order are left out: the head wants equal batches
    learned = nn.ModuleDict({"network": network, "head": head.to(device())})
    optimiser = Optimiser(learned.parameters(), recipe.learning_rate, recipe.epochs * (used // size), weight_decay=0.01)
    augment = v2.Compose([
        v2.RandomResizedCrop(backbone.preprocess.size, (_SMALLEST_CROP, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ])  # fmt: skip
    done = 0
    if found := load_checkpoint(progress, device()):
        parts, done = found
        learned.load_state_dict(parts["learned"])
        optimiser.restore(parts["optimiser"])
    for epoch in range(done + 1, recipe.epochs + 1):
        torch.manual_seed(recipe.seed * 1000 + epoch)
        order, losses = torch.randperm(len(pixels))[:used].split(size), 0.0
        for images in tqdm(order, f"epoch {epoch} of {recipe.epochs}", leave=False, unit="batch", disable=None):
            x = backbone.preprocess.normalise(torch.from_numpy(pixels[images.numpy()]).to(device()))
            scores = head(network(augment(x)))  # (N, W)
            wanted = shares[images].to(device())
            loss = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(1).mean()
            optimiser.step(loss)
            losses += loss.item()
        print(f"epoch {epoch}: loss of the words {losses / len(order):.3f}", flush=True)
        save_checkpoint(progress, {"learned": learned.state_dict(), "optimiser": optimiser.state()}, epoch)


def word_shares(captions: Sequence[Sequence[Sequence[str]]], min_count: int) -> Tensor:
    """The share of each image's captions that hold a word, (I, W), for the words of at least `min_count` captions."""
    held = [[set(tokens) for tokens in image] for image in captions]
    counts = Counter(word for image in held for words in image for word in words)
    columns = {word: column for column, word in enumerate(sorted(w for w, n in counts.items() if n >= min_count))}
    shares = torch.zeros(len(captions), len(columns))
    for row, image in zip(shares, held, strict=True):
        for word in (word for words in image for word in words if word in columns):
            row[columns[word]] += 1 / len(image)
    return shares


def _head(channels: int, shares: Tensor) -> nn.Module:
    """Begins by answering with how common each word is, whatever the picture."""
    linear = nn.Linear(channels, shares.shape[1])
    nn.init.zeros_(linear.weight)
    common = shares.mean(0).clamp(1e-6, 1 - 1e-6)
    with torch.no_grad():
        linear.bias.copy_(torch.logit(common))
    # Standardised features, because it has to learn much faster than the network that makes them.
    return nn.Sequential(nn.BatchNorm1d(channels, affine=False), linear)
