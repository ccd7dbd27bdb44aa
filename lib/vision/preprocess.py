"""From a picture to the pixels that a CNN was trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.core.errors import readable_errors

CONFIG_FILE = "backbone.json"
_SIZES = range(16, 8193)  # pixels per side: smaller images vanish in a CNN, larger ones fill the memory


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale and normalise.

    With `resize`, the shorter side is brought to that many pixels and the middle `size` x `size` cut out,
    as torchvision's classification presets do. Without, the whole picture is squeezed into `size` x `size`:
    a caption speaks of the edges too.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def min_decode_size(self) -> int:
        """The shorter side, in pixels, below which a picture should not be decoded: see lib/vision/images.py.

        Twice what is kept of it, so that the resize still has something to average: on photographs of 12 megapixels
        the result then differs by less than half a level of 255, in the mean over pixels.
        """
        return 2 * (self.resize or self.size)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of `size` that the CNN is shown: left, top, width and height, in per cent of it."""
        if self.resize is None:
            return 0.0, 0.0, 100.0, 100.0
        extent = self.size / self.resize * min(size)
        width, height = (round(100 * extent / side, 2) for side in size)
        return round((100 - width) / 2, 2), round((100 - height) / 2, 2), width, height

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB picture as uint8 (size, size, 3); as torchvision's, but for rounding to the next level."""
        filter_ = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), filter_))
        width, height = (int(self.resize * side / min(image.size)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if min(left, top) < 0:  # a crop beyond the edge (size over resize) is filled with black, as torchvision pads
            resized = image.resize((width, height), filter_)
            return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))
        # Only what is kept is resized: the box is that crop in the picture's own pixels.
        x, y = image.width / width, image.height / height
        box = (
            left * x, top * y,
            min((left + self.size) * x, image.width), min((top + self.size) * y, image.height),
        )  # fmt: skip
        return np.asarray(image.resize((self.size, self.size), filter_, box=box))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) to floats (N, 3, size, size), laid out channels last."""
        mean, std = (torch.tensor(value, device=pixels.device) for value in (self.mean, self.std))
        # (pixels / 255 - mean) / std in one pass over memory
        return torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std)).permute(0, 3, 1, 2)


def read_preprocess(folder: Path) -> Preprocess:
    """Read the preprocessing of a saved backbone. Raises UserError as `read_backbone_config` does."""
    return read_backbone_config(folder)[1]


def read_backbone_config(folder: Path) -> tuple[str, Preprocess]:
    """Read the name and the preprocessing of a saved backbone.

    Raises UserError if the file is missing, damaged, or of another version.
    """
    with readable_errors(folder / CONFIG_FILE):
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        settings: dict[str, Any] = config["preprocess"]
        preprocess = Preprocess(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})
        if preprocess.size not in _SIZES:
            raise ValueError(
                f"size is {preprocess.size}, and should be from {_SIZES[0]} to {_SIZES[-1]} pixels per side"
            )
        # Values that do not fit together would otherwise fail at the first image.
        preprocess.normalise(torch.from_numpy(preprocess.pixels(Image.new("RGB", (8, 8))).copy())[None])
        return config["name"], preprocess
