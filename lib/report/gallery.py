"""Write the page's gallery: sprites with the thumbnails, and gallery.js with the captions and attention weights.

A sprite is a large JPEG with many thumbnails, because thousands of small files slow down browsers, disks and DVC. The
data is in a script (gallery.js), because a page that is opened from disk may load a script but may not fetch JSON.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.vision.images import Archives, ImageRow, Preprocess, decode

if TYPE_CHECKING:  # for type checkers only: importing pandas takes half a second, and the demo does not need it
    import pandas as pd

SHARED = Path(__file__).parent / "shared"  # base.css and heatmap.js, which the report and the demo use
RANKED_BY = ["cider_d", "bleu_4", "bleu_3", "bleu_2", "bleu_1", "rouge_l"]
SIDE = 224  # pixels per side of a cell: a multiple of JPEG's 16-pixel blocks, so that cells do not share a block
PER_ROW = 8  # cells per row of a sprite, which has at most PER_ROW rows
MARGIN = 2  # pixels around a thumbnail in its cell
_SPRITE = "sprites/{:03d}.jpg"
_MAX_SIDE = SIDE - 2 * MARGIN  # maximum width and height of a thumbnail in pixels
_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", "S1")
_LABELS = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "distinct_1": "Distinct-1", "distinct_2": "Distinct-2",
}  # fmt: skip


def label(name: str) -> str:
    """Return the usual spelling of a metric, such as "BLEU-1" for `bleu_1` or "Mean length" for `mean_length`."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def write_gallery(
    folder: Path,
    per_image: "pd.DataFrame",
    references: Mapping[int, Sequence[str]],
    sizes: Sequence[tuple[int, int]],
    attention: np.ndarray,
    preprocess: Preprocess | None = None,
) -> None:
    """Write gallery.js to `folder`. `sizes` has the (width, height) of each thumbnail, as `write_sprites` returns them.

    `per_image` has one row per image: `image_id`, `caption` and the scores. It also has `tokens` if blanks do not
    separate the words of the captions, and `true` if the truth of the captions was judged. `attention` (W, P) has the
    weights of P regions for each of the W words of all captions; W or P is 0 without attention. The regions form a
    square grid over the part of the image that `preprocess` keeps, or over the complete image if it is None.
    """
    sprites = [_SPRITE.format(number) for number in range(-(-len(sizes) // PER_ROW**2))]
    labels = [label(name) for name in RANKED_BY]
    data = {"side": SIDE, "margin": MARGIN, "perRow": PER_ROW, "sprites": sprites, "scores": labels}
    scores = per_image[RANKED_BY].round(3).to_numpy().tolist()
    first_word = 0
    with (folder / "gallery.js").open("w", encoding="utf-8") as file:
        file.write(f"var galleryData = {json.dumps(data)};\ngalleryData.images = [\n")
        for row, size, image_scores in zip(per_image.itertuples(), sizes, scores, strict=True):
            words = list(row.tokens) if "tokens" in per_image else row.caption.split()
            image = {
                "id": str(row.image_id),  # as text, because JavaScript rounds integers above 2^53
                "words": words,
                **({"caption": row.caption} if "tokens" in per_image else {}),
                "references": list(references[row.image_id]),
                "scores": image_scores,
                "size": size,
                "attention": encode_attention(attention[first_word : first_word + len(words)]),
                "cropBox": preprocess.crop_box(size) if preprocess else (0.0, 0.0, 100.0, 100.0),
                "true": getattr(row, "true", None),
            }
            file.write(json.dumps(image, separators=(",", ":")) + ",\n")
            first_word += len(words)
        file.write("];\n")


def encode_attention(weights: np.ndarray) -> list[str]:
    """Encode weights (T, P) for heatmap.js: one string per word, with one base-36 digit per region, `z` the largest."""
    if weights.shape[1] < 2:  # no attention, or one region that always has weight 1
        return []
    weights = weights.astype(np.float32)
    levels = np.rint(weights / weights.max(axis=1, keepdims=True) * (len(_DIGITS) - 1)).astype(int)
    return [row.tobytes().decode() for row in _DIGITS[levels]]


def write_sprites(rows: Sequence[ImageRow], archives: Archives, folder: Path, workers: int) -> list[tuple[int, int]]:
    """Pack thumbnails of the images into sprites of PER_ROW x PER_ROW cells, in the folder `folder`/sprites.

    Return the (width, height) of each thumbnail. `workers` threads make the thumbnails; the bytes do not depend on
    their number. Only one sprite at a time is in memory.
    """
    sizes: list[tuple[int, int]] = []
    (folder / _SPRITE).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        for first in tqdm(range(0, len(rows), PER_ROW**2), "packing thumbnails", unit="sprite", disable=None):
            thumbnails = list(pool.map(partial(thumbnail, archives), rows[first : first + PER_ROW**2]))
            _pack(thumbnails).save(folder / _SPRITE.format(first // PER_ROW**2), quality=80)
            sizes += [image.size for image in thumbnails]
    return sizes


def thumbnail(archives: Archives, row: ImageRow) -> Image.Image:
    """Return the image, scaled down to fit a cell. Raises ImageError if it cannot be read."""
    _, archive, member = row
    image = decode(archives.read(archive, member), _MAX_SIDE)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return image


def _pack(thumbnails: Sequence[Image.Image]) -> Image.Image:
    sprite = np.zeros((-(-len(thumbnails) // PER_ROW) * SIDE, PER_ROW * SIDE, 3), np.uint8)
    for cell, image in enumerate(thumbnails):
        top, left = SIDE * (cell // PER_ROW), SIDE * (cell % PER_ROW)
        # Fill the rest of the cell with the edge pixels, because a browser blends neighbouring pixels when it scales.
        padding = [(MARGIN, SIDE - MARGIN - side) for side in (image.height, image.width)]
        sprite[top : top + SIDE, left : left + SIDE] = np.pad(np.asarray(image), [*padding, (0, 0)], "edge")
    return Image.fromarray(sprite)
