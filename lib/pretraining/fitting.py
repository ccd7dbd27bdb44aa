"""Train a CNN from random weights, on images and captions alone.

A linear layer, which is dropped afterwards, predicts from each region of the grid which phrases the captions contain.
The region with the highest score gives the score of the image (multiple instance learning, Fang et al. 2015, "From
captions to visual concepts and back"). So a region learns its own content, although no caption says where an object is.
Pairs of words bind attributes to objects: single words say that something is red and that something is a star, but not
that the star is red.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.pretraining.phrases import PretrainConfig, learn_phrases, phrase_shares
from lib.runtime.device import device
from lib.vision.backbones import Backbone, for_inference


def fit_backbone(
    backbone: Backbone,
    pixels: np.ndarray,
    captions: Sequence[Sequence[Sequence[str]]],
    config: PretrainConfig,
    checkpoint_path: Path,
) -> None:
    """Train `backbone` in place and leave it in evaluation mode; see `learn_phrases`.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i.
    """
    targets = (phrase_shares(captions, config) > 0).float()  # (I, W)
    network = for_inference(backbone.network).to(device())
    channels = backbone.features(torch.from_numpy(pixels[:1]).to(device()), "grid").shape[2]
    head = nn.Linear(channels, targets.shape[1]).to(device())
    nn.init.constant_(head.bias, -3.0)  # low probabilities, because most phrases are in few captions

    def predict(x: Tensor) -> Tensor:
        return head(backbone.grid(x)).amax(dim=1)  # (N, P, W) -> (N, W)

    network.train()
    learn_phrases(backbone, pixels, targets, head, predict, config, checkpoint_path)
    for_inference(network)
