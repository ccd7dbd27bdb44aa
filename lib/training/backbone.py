"""Teaching a backbone from pictures and their captions alone, for where no trained weights can be had.

The CNN is trained end to end under a small decoder that is thrown away after. The captioning loss alone takes
long to tell shapes apart, because the words that name them are few and differ from caption to caption. So a
second loss asks each cell of the grid which words the picture's captions hold, the strongest cell
answering for the picture (multiple instance learning, as in Fang et al. 2015, "From captions to visual
concepts and back"). By itself that one would lose which colour goes with which shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.compute import device
from lib.text.vocabulary import SPECIALS, Vocabulary
from lib.training.batches import pad, targets
from lib.training.epochs import epochs_left
from lib.training.optimisation import Optimiser
from lib.vision.backbones import Backbone, for_inference

_SIZE = 96  # of the throw-away decoder's word vectors and state
_CAPTIONS = 2  # of each picture in an epoch


@dataclass(frozen=True)
class FitRecipe:
    """How to fit; see params.yaml."""

    epochs: int
    batch_size: int
    learning_rate: float
    concept_weight: float
    seed: int


def fit_backbone(
    backbone: Backbone,
    pixels: np.ndarray,
    captions: Sequence[Sequence[Sequence[str]]],
    recipe: FitRecipe,
    progress: Path,
) -> None:
    """Trains `backbone` in place and leaves it in evaluation mode.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i. `progress` is the file
    of a checkpoint: a run that is interrupted, and started again with the same arguments, repeats at most an epoch.
    """
    vocabulary = Vocabulary.count((tokens for image in captions for tokens in image), min_count=1)
    ids = [[vocabulary.encode(tokens, max_length=len(tokens)) for tokens in image] for image in captions]
    network = for_inference(backbone.network).to(device())
    _, places, channels = backbone.features(torch.from_numpy(pixels[:1]).to(device()), "grid").shape
    decoder = Decoder(DecoderConfig(places, channels, len(vocabulary), "lstm", "torch", "additive", _SIZE, _SIZE, 0.0))
    # Small word vectors: the picture counts from the start, and it is the CNN that is to learn.
    nn.init.normal_(decoder.embed.weight, std=_SIZE**-0.5)
    decoder.to(device())
    detector = _ConceptDetector(channels, len(vocabulary)).to(device())
    size = min(recipe.batch_size, len(ids))
    batches = len(ids) // size  # the last few of each epoch's order are left out: batch norm wants equal batches
    learned = nn.ModuleDict({"network": network, "decoder": decoder, "detector": detector})
    optimiser = Optimiser(learned.parameters(), recipe.learning_rate, recipe.epochs * batches, weight_decay=0.01)

    network.train()
    for epoch in epochs_left(recipe.epochs, recipe.seed, progress, optimiser, learned=learned):
        order, losses = torch.randperm(len(ids))[: batches * size].split(size), 0.0
        for images in tqdm(order, f"epoch {epoch} of {recipe.epochs}", leave=False, unit="batch", disable=None):
            x = backbone.preprocess.normalise(torch.from_numpy(pixels[images.numpy()]).to(device()))
            grid = backbone.grid(x)  # (I, P, C)
            chosen = [[ids[i][j] for j in torch.randperm(len(ids[i]))[:_CAPTIONS]] for i in images]
            rows = torch.tensor([row for row, image in enumerate(chosen) for _ in image], device=device())
            words = pad([caption for image in chosen for caption in image]).to(device())  # (N, T)
            scores = decoder(grid, rows, words)
            loss = nn.functional.cross_entropy(scores, targets(words))
            optimiser.step(loss + recipe.concept_weight * detector.loss(grid, [ids[i] for i in images]))
            losses += loss.item()
        print(f"epoch {epoch}: caption loss {losses / batches:.3f}", flush=True)
    for_inference(network)


class _ConceptDetector(nn.Module):
    """Which words do a picture's captions hold? Each cell of the grid gives a score, and the highest counts."""

    def __init__(self, channels: int, vocabulary_size: int):
        super().__init__()
        self.scores = nn.Linear(channels, vocabulary_size)
        nn.init.constant_(self.scores.bias, -3.0)  # most words are in few captions

    def loss(self, grid: Tensor, captions: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """Cross-entropy of presence, mean over words and pictures. grid (I, P, C), captions[i] ids of image i."""
        found = self.scores(grid).amax(dim=1)  # (I, V)
        present = torch.zeros_like(found)
        for row, image in zip(present, captions, strict=True):
            row[sorted({word for caption in image for word in caption})] = 1.0
        words = slice(len(SPECIALS), None)
        return nn.functional.binary_cross_entropy_with_logits(found[:, words], present[:, words])
