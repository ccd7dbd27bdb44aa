"""Teaching a CNN from pictures and their captions alone, for where no trained weights can be had.

Each place of its grid is asked, through a linear layer that is thrown away after, which words and pairs of words the
picture's captions hold, and the place that is surest answers for the picture (multiple instance learning, as in Fang
et al. 2015, "From captions to visual concepts and back"). So a place learns what lies there, though no caption says
where that is. The pairs keep together what belongs together: words alone would tell that something is red and something
a star, and not that it is the star which is red.
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
    recipe: PretrainConfig,
    progress: Path,
) -> None:
    """Trains `backbone` in place and leaves it in evaluation mode.

    pixels (I, size, size, 3) uint8, preprocessed; captions[i] are the token lists of image i. `progress` is the file
    of a checkpoint: a run that is interrupted, and started again with the same arguments, repeats at most an epoch.
    Raises UserError where no phrase is in `recipe.min_count` captions, and where training diverges.
    """
    held = (phrase_shares(captions, recipe.min_count) > 0).float()  # (I, W)
    network = for_inference(backbone.network).to(device())
    channels = backbone.features(torch.from_numpy(pixels[:1]).to(device()), "grid").shape[2]
    head = nn.Linear(channels, held.shape[1])
    nn.init.constant_(head.bias, -3.0)  # most phrases are in few captions

    def scores(x: Tensor) -> Tensor:
        return head(backbone.grid(x)).amax(dim=1)  # (N, P, W) -> (N, W)

    network.train()
    learn_phrases(backbone, pixels, held, head.to(device()), scores, recipe, progress)
    for_inference(network)
