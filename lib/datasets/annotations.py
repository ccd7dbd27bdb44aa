"""Read captions from a file, read Karpathy's split, or assign a split by hash.

Karpathy's split has one file per split: [{"image": "val2014/COCO_val2014_000000391895.jpg", ...}]. In the train file,
each caption has a row. In the other files, each image has a row.
"""

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.errors import UserError, readable_errors
from lib.datasets.sources import read_source


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32. Raises UserError."""
    with readable_errors(path):
        return json.loads(path.read_bytes())


def read_annotations(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the captions in a file or folder of any supported format. Raises UserError.

    Return two tables: images (image_id, file_name and, if the format has it, split) and captions (image_id, caption).
    """
    annotations = read_source(path)
    return annotations.images, annotations.captions


def read_karpathy_lists(sources: Mapping[str, Path]) -> dict[int, str]:
    """Return the split of each image id, from one file per split. Raises UserError, also if an id is in two splits."""
    splits: dict[int, str] = {}
    for split, source in sources.items():
        rows = read_json(source)
        wrong, fix = f"{source} is not one of Karpathy's lists", "Use the original file."
        if not isinstance(rows, list):
            raise UserError(f"{wrong}: the content must be a list, but it is {reprlib.repr(rows)}. {fix}")
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise UserError(f"{wrong}: item {number} must be an object, but it is {reprlib.repr(row)}. {fix}")
            if not isinstance(name := row.get("image"), str):
                raise UserError(f"{wrong}: item {number}: `image` must be text, but it is {reprlib.repr(name)}. {fix}")
            match = re.search(r"(?<![0-9])([0-9]{1,18})\.[^./]*\Z", name)
            if not match:
                problem = "does not end in a number of up to 18 digits and a suffix"
                raise UserError(f"{source}: the image {reprlib.repr(name)} {problem}. {fix}")
            if (other := splits.setdefault(int(match[1]), split)) != split:
                raise UserError(
                    f"{source}: the image {reprlib.repr(name)} is also in the {other} split. Keep it in one split only."
                )
    return splits


def draw_splits(image_ids: Sequence[int | str], seed: int, val_share: float, test_share: float) -> list[str]:
    """Return the split of each image, drawn by a hash of its id, so that a new image moves no other image.

    In a small set, a split may get no image. Then it gets the image with the nearest hash, if there are three images.
    """
    draws = [hash_fraction(image_id, seed) for image_id in image_ids]  # test below test_share, then val, then train
    num_test = sum(draw < test_share for draw in draws)
    num_val = sum(draw < test_share + val_share for draw in draws) - num_test
    if len(draws) >= 3:
        num_test, num_val = max(num_test, 1), max(num_val, 1)
        if num_test + num_val >= len(draws):
            num_test, num_val = 1, 1
    by_draw = sorted(range(len(draws)), key=draws.__getitem__)
    split_of = dict.fromkeys(by_draw[:num_test], "test") | dict.fromkeys(by_draw[num_test:][:num_val], "val")
    return [split_of.get(row, "train") for row in range(len(draws))]


def hash_fraction(image_id: int | str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the id and the seed."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
