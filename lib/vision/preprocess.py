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

    @property
    def least(self) -> int:
        """The shorter side, in pixels, below which a picture should not be decoded: see lib/vision/images.py.

        Twice what is kept of it, so that the resize still has something to average: on photographs of 12 megapixels
        the result then differs by less than half a level of 255, in the mean over pixels.
        """
        return 2 * (self.resize or self.size)

    def shown(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
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
