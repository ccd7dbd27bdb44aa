"""Readers of caption formats: COCO captions JSON, Karpathy JSON, and Karpathy's split as lists.

COCO captions JSON (Chen et al. 2015): {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
Karpathy JSON (Karpathy & Fei-Fei 2015): {"images": [{"filename", "split", "sentences": [{"raw"}], "imgid"}]}, with
optional "cocoid" (the image id) and "filepath" (a folder).
Karpathy's lists: one file per split, [{"image": "val2014/COCO_val2014_000000391895.jpg", ...}]; train has one row per
caption, the others one row per image.

A reader takes the parsed content and the path of its file, and returns two tables: images (image_id, file_name and, if
the format has it, split) and captions (image_id, caption). It raises UserError for anything malformed.
"""

import hashlib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.errors import UserError
from lib.datasets.json_records import JsonRecord, read_json

Tables = tuple[pd.DataFrame, pd.DataFrame]

# "restval" is the part of COCO's validation set that papers train on.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
_IMAGE_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,18})\.[^./]*\Z")


def read_annotations(path: Path) -> Tables:
    """Read a captions file of any supported format. Raises UserError."""
    content = read_json(path)
    if not (isinstance(content, dict) and "images" in content):
        raise UserError(
            f'{path} is neither a COCO captions JSON nor a Karpathy JSON: both are objects with a list "images"'
        )
    return read_coco(content, path) if "annotations" in content else read_karpathy(content, path)


def read_coco(content: Any, source: Path) -> Tables:
    """Read a COCO captions JSON, which has no split."""
    root = JsonRecord(content, f"{source} is not a COCO captions JSON")
    images = [(row.integer("id"), row.text("file_name")) for row in root.rows("images")]
    captions = [(row.integer("image_id"), row.text("caption")) for row in root.rows("annotations")]
    return _table(images, "file_name"), _table(captions, "caption")


def read_karpathy(content: Any, source: Path) -> Tables:
    """Read a Karpathy JSON."""
    images, captions = [], []
    for row in JsonRecord(content, f"{source} is not a Karpathy JSON").rows("images"):
        name, split = row.text("filename"), row.text("split")
        if split not in _KARPATHY_SPLITS:
            raise row.error(f"'split' is {reprlib.repr(split)}, should be one of {', '.join(_KARPATHY_SPLITS)}")
        if row.value.get("filepath"):
            name = f"{row.text('filepath')}/{name}"
        image_id = row.integer("cocoid" if "cocoid" in row.value else "imgid")
        images.append((image_id, name, _KARPATHY_SPLITS[split]))
        captions += [(image_id, sentence.text("raw")) for sentence in row.rows("sentences")]
    return _table(images, "file_name", "split"), _table(captions, "caption")


def _table(rows: list[Any], *columns: str) -> pd.DataFrame:
    """Return a table with explicit types, because an empty list has none."""
    table = pd.DataFrame(rows, columns=["image_id", *columns])
    return table.astype({"image_id": "int64", **dict.fromkeys(columns, "str")})


def read_karpathy_lists(sources: Mapping[str, Path]) -> dict[int, str]:
    """Return the split of each image id from one list per split. Raises UserError, also for an id in two splits."""
    splits: dict[int, str] = {}
    for split, source in sources.items():
        root = JsonRecord({"rows": read_json(source)}, f"{source} is not one of Karpathy's lists")
        for row in root.rows("rows"):
            name = row.text("image")
            if not (match := _IMAGE_NUMBER.search(name)):
                raise row.error(f"'image' is {reprlib.repr(name)}, should end in a number of up to 18 digits")
            image_id = int(match[1])
            if splits.setdefault(image_id, split) != split:
                raise UserError(
                    f"{source} has image {image_id} in {split}, but it is in {splits[image_id]} too; use one split"
                )
    return splits


def hashed_split(image_id: int, seed: int, val_share: float, test_share: float) -> str:
    """Return a split that depends on this image's id alone, so adding or removing images moves no other image."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1)
    if uniform < test_share:
        return "test"
    return "val" if uniform < test_share + val_share else "train"
