"""Reads a data set of scenes back: the same COCO captions JSON as any other, and the truth behind each picture."""

from pathlib import Path

import pandas as pd

from lib.datasets import annotations
from lib.datasets.scenes.world import Scene
from lib.datasets.tables import SPLITS, Dataset

IMAGES, TRUTH = "images.zip", "truth.json"


def captions_file(split: str) -> str:
    return f"captions_{split}.json"


def read(raw: Path) -> Dataset:
    """Reads what `write_scenes` left in `raw`."""
    parts = []
    for split in SPLITS:
        source = raw / captions_file(split)
        images, captions = annotations.read_coco(annotations.read_json(source), source)
        images = images.assign(split=split, archive=IMAGES, member=[f"{split}/{name}" for name in images["file_name"]])
        parts.append((images[["image_id", "archive", "member", "split"]], captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    return Dataset(images, captions, raw)


def read_truth(raw: Path) -> dict[int, Scene]:
    """The scene behind each image id."""
    return {record["image_id"]: Scene.from_json(record) for record in annotations.read_json(raw / TRUTH)}
