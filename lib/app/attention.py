"""Where the model looked for each word of a caption: Xu et al. 2015, "Show, attend and tell", figure 3."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from lib.app.captioner import Candidate
from lib.core.errors import UserError
from lib.vision.preprocess import Preprocess

_COLUMNS, _INCHES = 5, 2.4  # of the drawing: pictures in a row, and the width of one


def attention_grid(candidate: Candidate) -> np.ndarray:
    """The attention of each token, laid out as the picture is: (T, side, side); (T, 0, 0) if there is none."""
    tokens, places = candidate.attention.shape
    side = math.isqrt(places)  # of a square picture a CNN makes a square grid
    return candidate.attention.numpy().reshape(tokens, side, side)


def draw_attention(picture: Image.Image, preprocess: Preprocess, candidate: Candidate, path: Path) -> None:
    """Draws the picture once for each word, in grey, with the attention over it as heat and the word below.

    The scale is each word's own: its hottest place is the one that it looked at most. The suffix of `path` says what
    kind of file is made. Raises UserError where none can be.
    """
    from matplotlib.figure import Figure  # half a second that the demo page does not need

    width, height = picture.size
    left, top, across, down = (share / 100 for share in preprocess.crop_box(picture.size))
    extent = (left * width, (left + across) * width, (top + down) * height, top * height)
    rows = -(-max(1, len(candidate.tokens)) // _COLUMNS)
    figure = Figure(figsize=(_INCHES * _COLUMNS, (_INCHES * height / width + 0.4) * rows), layout="constrained")
    grey = picture.convert("L")
    for number, (token, weights) in enumerate(zip(candidate.tokens, attention_grid(candidate), strict=True), 1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        axes.imshow(grey, "gray", vmin=0, vmax=255)
        share = weights / weights.max()
        axes.imshow(share, "autumn_r", alpha=0.8 * share, interpolation="bilinear", extent=extent)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_title(token, y=-0.04, va="top")
        axes.axis("off")
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:  # nowhere to write to, or a suffix that is no picture's
        raise UserError(f"cannot draw to {path}: {error}") from error
