"""The data of the page's gallery: every test image with its caption, references and scores, and where the model looked.

It is a script, gallery.js, and not JSON: a page that is opened from the disk may load the one, and not fetch the other.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.report.labels import label
from lib.report.sprites import MARGIN, PER_ROW, SIDE, Size
from lib.vision.preprocess import Preprocess

RANKED_BY = ["cider_d", "bleu_4", "bleu_3", "bleu_2", "bleu_1", "rouge_l"]
_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", "S1")


def write_gallery(
    path: Path,
    each: pd.DataFrame,
    references: Mapping[int, Sequence[str]],
    sheets: Sequence[Path],
    sizes: Sequence[Size],
    attention: np.ndarray,
    preprocess: Preprocess,
) -> None:
    """Writes gallery.js to `path`, beside the `sheets`.

    `each` has a row an image: image_id, caption, its scores and, where that is known, if the caption is `true`. `sizes`
    are those of the images on the sheets. `attention` (W, P) has, for each of the W words of all captions in turn, the
    weights of P places, row by row of a square; W or P is 0 without attention. `preprocess` tells which part of a
    picture that square is.
    """
    words = [caption.split() for caption in each["caption"]]
    columns: dict[str, Iterable[Any]] = {
        "id": each["image_id"],
        "words": words,
        "references": (list(references[image_id]) for image_id in each["image_id"]),
        "scores": each[RANKED_BY].round(3).to_numpy().tolist(),
        "size": sizes,
    }
    if "true" in each:
        columns["true"] = each["true"]
    if attention.shape[1] > 1:  # with one place, there is no choice where to look
        columns["looked"] = _looked(attention, [len(caption) for caption in words])
        columns["seen"] = (preprocess.crop_box(size) for size in sizes)
    rest = {
        "side": SIDE,
        "margin": MARGIN,
        "perRow": PER_ROW,
        "sheets": [sheet.name for sheet in sheets],
        "scores": [label(name) for name in RANKED_BY],
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(f"var galleryData = {json.dumps(rest)};\ngalleryData.pictures = [\n")
        for values in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, values, strict=True)), separators=(",", ":")) + ",\n")
        file.write("];\n")


def _looked(attention: np.ndarray, lengths: Iterable[int]) -> Iterator[list[str]]:
    """For each caption, a text for each word, with a digit for each place: its weight, where z (35) is the largest."""
    first = 0
    for length in lengths:
        weights = attention[first : first + length].astype(np.float32)
        levels = np.rint(weights / weights.max(axis=1, keepdims=True) * (len(_DIGITS) - 1)).astype(int)
        yield [row.tobytes().decode() for row in _DIGITS[levels]]
        first += length
