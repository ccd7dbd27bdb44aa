"""From a picture to the pixels that a CNN was trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB picture as uint8 (size, size, 3)."""
        filter_ = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), filter_))
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, int(side * scale)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        # A box beyond the edge (size over resize) is filled with black, as torchvision pads.
        return np.asarray(image.resize((width, height), filter_).crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) to floats (N, 3, size, size), laid out channels last."""
        mean, std = (torch.tensor(value, device=pixels.device) for value in (self.mean, self.std))
        return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
