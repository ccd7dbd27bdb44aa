"""Write a report page, as the report stage does, from the images and captions of a test."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lib.report.gallery import RANKED_BY, write_gallery, write_sprites
from lib.report.page import write_page
from lib.report.plots import bleu_analysis, gradient_flow, learning_curves
from lib.vision.images import Archives, Preprocess
from tests.pictures import saved

WHOLE = Preprocess(64, (0.5,) * 3, (0.5,) * 3)  # the CNN sees the whole image
CURVES = pd.DataFrame({
    "epoch": [1, 2], "train_loss": [4.0, 3.0], "val_loss": [3.5, 3.2], "val_cider_d": [0.5, 0.7],
    **{f"val_bleu_{n}": [0.7 - n / 10, 0.8 - n / 10] for n in range(1, 5)},
})  # fmt: skip
NORMS = pd.DataFrame({
    "steps_back": [1, 2], "rnn_untrained": [1, 0.1], "rnn_trained": [1, 0.2], "lstm_untrained": [1, 0.3],
    "lstm_trained": [1, 0.5],
})  # fmt: skip
FIRST_ID = 101
EMPTY: dict[str, Any] = {  # the content of a page without results
    "title": "t", "summary": "s", "scores": {}, "intervals": {}, "statistics": {}, "curves": [], "bleu": [],
    "comparisons": [], "gradients": [],
}  # fmt: skip


def per_image(captions: Sequence[str]) -> pd.DataFrame:
    """Return the table that the evaluate stage writes, for images 101, 102, ..., with random scores."""
    count = len(captions)
    return pd.DataFrame({
        "image_id": range(FIRST_ID, FIRST_ID + count),
        "caption": pd.Series(captions, dtype=str),
        "length": [len(caption.split()) for caption in captions],
        **dict(zip(RANKED_BY, np.random.default_rng(1).random((len(RANKED_BY), count)), strict=True)),
    })  # fmt: skip


def write_report(
    folder: Path, archive: Path, members: Sequence[str], captions: Sequence[str], references: Sequence[Sequence[str]],
    regions: int = 0, preprocess: Preprocess = WHOLE, workers: int = 2, ids: Sequence[Any] | None = None,
    tokens: Sequence[list[str]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Write index.html, gallery.js and the sprites of the `members` of a zip. Return the table `per_image`.

    The attention weights of the `regions` are random.
    """
    table = per_image(captions)
    if ids is not None:
        table["image_id"] = ids
    if tokens:  # of captions without blanks between words
        table = table.assign(tokens=tokens, length=list(map(len, tokens)))
    archives = Archives(archive.parent)
    rows = [(image_id, archive.name, member) for image_id, member in zip(table["image_id"], members, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = write_sprites(rows, archives, folder, workers)
    attention = np.random.default_rng(2).integers(1, 200, (table["length"].sum(), regions), np.uint8).astype(np.float16)
    write_gallery(folder, table, dict(zip(table["image_id"], references, strict=True)), sizes, attention, preprocess)
    write_page(folder / "index.html", **EMPTY | {
        "title": "Captions", "scores": {"bleu_4": 0.25, "truth": 0.5}, "intervals": {"bleu_4": [0.2, 0.3]},
        "statistics": {"distinct_words": 12, "mean_length": 5.25}, "curves": learning_curves(CURVES, 2),
        "bleu": bleu_analysis(table, CURVES, 2), "gradients": gradient_flow(NORMS),
    })  # fmt: skip
    return table


def report_of(folder: Path, pictures: Sequence[Image.Image], *args: Any, **kwargs: Any) -> tuple[Path, pd.DataFrame]:
    """Write a report of these pictures, as `write_report` does. Return its folder and the table `per_image`."""
    members = write_zip(folder / "a.zip", pictures)
    return folder / "report", write_report(folder / "report", folder / "a.zip", members, *args, **kwargs)


def write_zip(path: Path, pictures: Sequence[Image.Image]) -> list[str]:
    """Write the images as PNGs. Return the names of the members."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(f"{number}.png", saved(picture))
        return archive.namelist()
