"""Tune a CNN that was trained on object classes, such as ImageNet's, on the phrases of captions.

A linear layer, which is dropped afterwards, predicts from the feature vector the fraction of an image's captions that
contain each phrase (Fang et al. 2015, "From captions to visual concepts and back"; Wu et al. 2016, "What value do
explicit high level concepts have in vision to language problems?"). Captions name people, clothes, actions and places.
ImageNet has no classes for most of these.

Images are cropped and mirrored at random. Objects are larger in a crop, so crops with fewer pixels (`size`) match the
object sizes of whole images at extraction (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). The
result is the EMA of the weights. Batch normalisation keeps its statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.optim.optimiser import EMA
from lib.pretraining.phrases import PretrainConfig, learn_phrases, phrase_shares
from lib.runtime.device import device
from lib.vision.backbones import Backbone, for_inference

_MIN_CROP = 0.4  # fraction of the image's area
_EMA_DECAY = 0.995


@dataclass(frozen=True, kw_only=True)
class TuneConfig(PretrainConfig):
    """How to tune; see params.yaml."""

    section = "backbone.tune"
    size: int | None  # pixels per side; None: the size at extraction
    precision: str  # float32 or bfloat16


def tune_backbone(
    backbone: Backbone,
    pixels: np.ndarray,
    captions: Sequence[Sequence[Sequence[str]]],
    config: TuneConfig,
    checkpoint_path: Path,
) -> None:
    """Tune `backbone` in place and leave it in evaluation mode; see `learn_phrases`.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i. Raises UserError also if
    there are fewer than two images, or the network does not take images of `config.size`.
    """
    if len(pixels) < 2:
        need = f"tuning needs at least 2 readable train images, but there are {len(pixels)}"
        fix = "Add images, or set backbone.tune.epochs to 0."
        raise UserError(f"backbone.tune.epochs={config.epochs}: {need}. {fix}")
    shares = phrase_shares(captions, config)  # (I, W)
    network = for_inference(backbone.network).to(device())
    size = config.size or backbone.preprocess.size
    head = _head(backbone.feature_size(size), shares).to(device())
    ema = EMA(network, _EMA_DECAY)

    def predict(x: Tensor) -> Tensor:
        views = random_views(x, size)
        with torch.autocast(device().type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            return head(network(views).float()).float()  # (N, W)

    learn_phrases(backbone, pixels, shares, head, predict, config, checkpoint_path, ema)
    network.load_state_dict(ema.module.state_dict())


def random_views(x: Tensor, size: int) -> Tensor:
    """Crop and mirror each image at random. x (N, 3, S, S) -> (N, 3, size, size)."""
    n = len(x)
    area = torch.empty(n).uniform_(_MIN_CROP, 1)
    aspect = torch.empty(n).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()  # width over height
    extent = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp_max(1)  # (N, 2), fractions
    centre = (1 - extent) * torch.empty(n, 2).uniform_(-1, 1)
    mirror = torch.randint(2, (n,)) * 2 - 1
    theta = torch.stack([extent[:, 0] * mirror, extent[:, 1]], dim=1).diag_embed()  # (N, 2, 2)
    theta = torch.cat([theta, centre[:, :, None]], dim=2).to(x)  # (N, 2, 3)
    grid = nn.functional.affine_grid(theta, [n, 3, size, size], align_corners=False)
    views = nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return views.contiguous(memory_format=torch.channels_last)


def _head(channels: int, shares: Tensor) -> nn.Module:
    """Return a head that at first predicts the mean of `shares` for every image."""
    linear = nn.Linear(channels, shares.shape[1])
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.copy_(torch.logit(shares.mean(0).clamp(1e-6, 1 - 1e-6)))
    # Standardise the features, because the head must learn much faster than the network.
    return nn.Sequential(nn.BatchNorm1d(channels, affine=False), linear)
