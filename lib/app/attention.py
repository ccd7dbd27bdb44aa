"""Draw the attention weights of a caption, as Xu et al. 2015, "Show, attend and tell", figure 3."""

import math
from pathlib import Path

from PIL import Image

from lib.app.captioner import Candidate
from lib.core.errors import UserError
from lib.vision.images import Preprocess

_COLUMNS, _WIDTH = 5, 2.4  # images per row, and inches of an image


def draw_attention(image: Image.Image, preprocess: Preprocess, candidate: Candidate, path: Path) -> None:
    """Draw the grey image once per word, under the word's heat map. The suffix of `path` sets the file format.

    The largest weight of each word gets the full colour. Raises UserError if `path` cannot be written.
    """
    from matplotlib.figure import Figure  # the import takes half a second, and most calls of `caption` do not draw

    width, height = image.size
    left, top, crop_width, crop_height = (percent / 100 for percent in preprocess.crop_box(image.size))
    extent = (left * width, (left + crop_width) * width, (top + crop_height) * height, top * height)
    rows = -(-max(1, len(candidate.tokens)) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH * _COLUMNS, (_WIDTH * height / width + 0.4) * rows), layout="constrained")
    grey = image.convert("L")
    side = math.isqrt(candidate.attention.shape[1])  # the regions are a square grid
    for index, (token, weights) in enumerate(zip(candidate.tokens, candidate.attention, strict=True), 1):
        axes = figure.add_subplot(rows, _COLUMNS, index)
        axes.imshow(grey, "gray", vmin=0, vmax=255)
        heat = (weights / weights.max()).reshape(side, side).numpy()
        axes.imshow(heat, "autumn_r", alpha=0.8 * heat, interpolation="bilinear", extent=extent)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_title(token, y=-0.04, va="top")
        axes.axis("off")
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:  # no such folder, or an unknown suffix
        raise UserError(f"cannot draw to {path}: {error}") from error
