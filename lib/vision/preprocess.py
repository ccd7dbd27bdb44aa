"""From an image to the input of a CNN."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.core.errors import readable_errors

CONFIG_FILE = "backbone.json"
_SIZES = range(16, 8193)  # pixels per side: a CNN reduces smaller images to nothing, and larger ones fill the memory


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale and normalise.

    With `resize`, the shorter side becomes that many pixels and the centre `size` x `size` is cropped, as in
    torchvision's classification presets. Without it, the complete image is resized to `size` x `size`, because a
    caption may mention what is at the edge.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def min_decode_size(self) -> int:
        """The pixels per side that `decode` must keep.

        With twice what the resize keeps, a pixel of 12-megapixel photographs changes by less than half a level of 255
        on average.
        """
        return 2 * (self.resize or self.size)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the crop of an image of `size` that the CNN sees: left, top, width, height in per cent."""
        if self.resize is None:
            return 0.0, 0.0, 100.0, 100.0
        extent = self.size / self.resize * min(size)
        width, height = (round(100 * extent / side, 2) for side in size)
        return round((100 - width) / 2, 2), round((100 - height) / 2, 2), width, height

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image as uint8 (size, size, 3); within one level of torchvision's result."""
        filter_ = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), filter_))
        width, height = (int(self.resize * side / min(image.size)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        # Resize the crop alone: the box is the crop in the pixels of the image.
        x, y = image.width / width, image.height / height
        right, bottom = min((left + self.size) * x, image.width), min((top + self.size) * y, image.height)
        return np.asarray(image.resize((self.size, self.size), filter_, box=(left * x, top * y, right, bottom)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) -> float (N, 3, size, size), channels last in memory."""
        mean, std = (torch.tensor(value, device=pixels.device) for value in (self.mean, self.std))
        # (pixels / 255 - mean) / std in one pass over memory
        return torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std)).permute(0, 3, 1, 2)


def read_backbone_config(folder: Path) -> tuple[str, Preprocess]:
    """Read the name and the preprocessing of a saved backbone. Raises UserError."""
    with readable_errors(folder / CONFIG_FILE):
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        settings = config["preprocess"]
        preprocess = Preprocess(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})
        if preprocess.size not in _SIZES:
            raise ValueError(f"size={preprocess.size}, but must be {_SIZES[0]} to {_SIZES[-1]} pixels per side")
        # Try it on a blank image: otherwise malformed values fail later.
        preprocess.normalise(torch.from_numpy(preprocess.pixels(Image.new("RGB", (8, 8))).copy())[None])
        return config["name"], preprocess
