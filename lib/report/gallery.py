"""Write the data of the page's gallery: each test image with its caption, references, scores and attention weights.

The data is a script, gallery.js, because a page opened from disk may load a script but may not fetch JSON.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.report.heatmap import encode_attention
from lib.report.labels import label
from lib.report.sprites import MARGIN, PER_ROW, SIDE, Size
from lib.vision.images import Preprocess

RANKED_BY = ["cider_d", "bleu_4", "bleu_3", "bleu_2", "bleu_1", "rouge_l"]


def write_gallery(
    path: Path,
    per_image: pd.DataFrame,
    references: Mapping[int, Sequence[str]],
    sprites: Sequence[Path],
    sizes: Sequence[Size],
    attention: np.ndarray,
    preprocess: Preprocess,
) -> None:
    """Write gallery.js to `path`, in the folder of the `sprites`.

    `per_image` has one row per image: image_id, caption, scores, and `true` if truth was judged. `sizes` are the
    thumbnail sizes. `attention` (W, P) has the weights of P regions for each of the W words of all captions;
    W or P is 0 without attention. The regions are a square grid over the part of the image that `preprocess` keeps.
    """
    layout = {"side": SIDE, "margin": MARGIN, "perRow": PER_ROW, "sprites": [sprite.name for sprite in sprites]}
    data = layout | {"scores": [label(name) for name in RANKED_BY]}
    scores = per_image[RANKED_BY].round(3).to_numpy().tolist()
    first_word = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(f"var galleryData = {json.dumps(data)};\ngalleryData.images = [\n")
        for row, size, image_scores in zip(per_image.itertuples(), sizes, scores, strict=True):
            words = row.caption.split()
            image = {
                "id": row.image_id,
                "words": words,
                "references": list(references[row.image_id]),
                "scores": image_scores,
                "size": size,
                "attention": encode_attention(attention[first_word : first_word + len(words)]),
                "cropBox": preprocess.crop_box(size),
            }
            if "true" in per_image:
                image["true"] = row.true
            file.write(json.dumps(image, separators=(",", ":")) + ",\n")
            first_word += len(words)
        file.write("];\n")
