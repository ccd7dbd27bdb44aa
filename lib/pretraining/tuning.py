"""Teaching a CNN that was trained to name objects what people say of pictures, before its features are extracted.

ImageNet's thousand kinds leave out most of what captions are about: people, what they wear and do, and where. So the
feature vector is asked, through a linear layer that is thrown away after, which words and pairs of words the picture's
captions hold; the answer to be learned is, for each, the share of the captions that hold it (Fang et al. 2015, "From
captions to visual concepts and back"; Wu et al. 2016, "What value do explicit high level concepts have in vision to
language problems?"). A pair says which colour is whose.

Each picture is cropped and mirrored at random. Things look larger in a crop: shown at fewer pixels (`size`), they are
as large as they will be when features are made of whole pictures (Touvron et al. 2019, "Fixing the train-test
resolution discrepancy"). Kept is the running mean of the weights. Batch normalisation keeps the statistics that they
came with.
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
from lib.pretraining import phrases
from lib.pretraining.phrases import learn_phrases, phrase_shares
from lib.runtime.device import device
from lib.vision.backbones import Backbone, for_inference

_SMALLEST_CROP = 0.4  # of the picture's area
_EMA_DECAY = 0.995


@dataclass(frozen=True, kw_only=True)
class TuneConfig(phrases.PretrainConfig):
    """How to tune; see params.yaml."""

    size: int | None  # pixels a side; None: as many as features are made of
    precision: str  # float32, bfloat16


def tune_backbone(
    backbone: Backbone,
    pixels: np.ndarray,
    captions: Sequence[Sequence[Sequence[str]]],
    recipe: TuneConfig,
    progress: Path,
) -> None:
    """Trains `backbone` in place and leaves it in evaluation mode.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i. `progress` is the file
    of a checkpoint: a run that is interrupted, and started again with the same arguments, repeats at most an epoch.
    Raises UserError for fewer than two pictures, where no phrase is in `recipe.min_count` captions, where the network
    cannot take pictures of `recipe.size`, and where training diverges.
    """
    if len(pixels) < 2:
        raise UserError("backbone.tune needs at least two pictures in the train split")
    shares = phrase_shares(captions, recipe.min_count)  # (I, W)
    network = for_inference(backbone.network).to(device())
    size = recipe.size or backbone.preprocess.size
    head = _head(backbone.feature_size(size), shares)
    mean = EMA(network, _EMA_DECAY)

    def scores(whole: Tensor) -> Tensor:
        x = random_views(whole, size)
        with torch.autocast(device().type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            return head(network(x).float()).float()  # (N, W)

    learn_phrases(backbone, pixels, shares, head.to(device()), scores, recipe, progress, mean)
    network.load_state_dict(mean.module.state_dict())


def random_views(x: Tensor, side: int) -> Tensor:
    """Of each picture of x (N, 3, size, size) a random crop, mirrored or not: (N, 3, side, side)."""
    count = len(x)
    area = torch.empty(count).uniform_(_SMALLEST_CROP, 1)
    stretch = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()  # width over height
    extent = torch.stack([(area * stretch).sqrt(), (area / stretch).sqrt()], dim=1).clamp_max(1)  # (N, 2) of the whole
    centre = (1 - extent) * torch.empty(count, 2).uniform_(-1, 1)
    mirrored = torch.randint(2, (count,)) * 2 - 1
    theta = torch.stack([extent[:, 0] * mirrored, extent[:, 1]], dim=1).diag_embed()  # (N, 2, 2)
    theta = torch.cat([theta, centre[:, :, None]], dim=2).to(x)  # (N, 2, 3)
    places = nn.functional.affine_grid(theta, [count, 3, side, side], align_corners=False)
    views = nn.functional.grid_sample(x, places, padding_mode="reflection", align_corners=False)
    return views.contiguous(memory_format=torch.channels_last)


def _head(channels: int, shares: Tensor) -> nn.Module:
    """Begins by answering with how common each word is, whatever the picture."""
    linear = nn.Linear(channels, shares.shape[1])
    nn.init.zeros_(linear.weight)
    common = shares.mean(0).clamp(1e-6, 1 - 1e-6)
    with torch.no_grad():
        linear.bias.copy_(torch.logit(common))
    # Standardised features, because it has to learn much faster than the network that makes them.
    return nn.Sequential(nn.BatchNorm1d(channels, affine=False), linear)
