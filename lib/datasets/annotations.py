"""Readers of the annotation formats of the field: COCO captions JSON, Karpathy JSON, and Karpathy's split as lists.

COCO captions JSON (Chen et al. 2015): {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
Karpathy JSON (Karpathy & Fei-Fei 2015): {"images": [{"filename", "split", "sentences": [{"raw"}], "imgid"}]},
with the image id in "cocoid" where there is one, and a folder in "filepath".
Karpathy's lists: a file a split, [{"image": "val2014/COCO_val2014_000000391895.jpg", ...}], in which train has a row a
caption and the others a row an image.

What a file holds is taken as it is, or refused: an id may be written as a text, but where one is a fraction, or a
caption is null, the file is not what it seems.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.errors import UserError

# Karpathy's restval images are the part of COCO's own validation set that everyone trains on.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError where there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return parse_json(content, path)


def parse_json(content: bytes, source: Path) -> Any:
    """The JSON that `content` is; raises UserError, which names `source`, where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from error


def is_karpathy(content: Any) -> bool:
    return isinstance(content, dict) and "annotations" not in content and "images" in content


def read_coco(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name; captions: image_id, caption) of a COCO captions JSON. Raises UserError."""
    try:
        images, rows = content["images"], content["annotations"]
        return (
            _table([_number(image["id"]) for image in images], "file_name", [_text(i["file_name"]) for i in images]),
            _table([_number(row["image_id"]) for row in rows], "caption", [_text(row["caption"]) for row in rows]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(source, "a COCO captions JSON", error) from error


def _table(image_ids: list[int], column: str, texts: list[str]) -> pd.DataFrame:
    """Types are given, since there is nothing in an empty list that they could be guessed from."""
    return pd.DataFrame({"image_id": pd.Series(image_ids, dtype="int64"), column: pd.Series(texts, dtype="str")})


def read_karpathy(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name, split; captions: image_id, caption) of a Karpathy JSON. Raises UserError."""
    images, captions = [], []
    try:
        for image in content["images"]:
            image_id = _number(image["cocoid"] if "cocoid" in image else image["imgid"])
            name = "/".join(_text(part) for part in (image.get("filepath"), image["filename"]) if part)
            images.append((image_id, name, _KARPATHY_SPLITS[image["split"]]))
            captions += [(image_id, _text(sentence["raw"])) for sentence in image["sentences"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(source, "a Karpathy JSON", error) from error
    return (
        pd.DataFrame(images, columns=["image_id", "file_name", "split"]),
        pd.DataFrame(captions, columns=["image_id", "caption"]),
    )


def read_karpathy_lists(sources: Mapping[str, Path]) -> dict[int, str]:
    """The split of each image id; `sources` has each split's list. Raises UserError, also for an id in two of them."""
    splits: dict[int, str] = {}
    for split, source in sources.items():
        content = read_json(source)
        try:
            if not isinstance(content, list):
                raise TypeError("it is no list")
            ids = {_number_in(name) for name in {row["image"] for row in content}}
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(source, "one of Karpathy's lists", error) from error
        if twice := ids & splits.keys():
            example = min(twice)
            raise UserError(
                f"{source} puts {len(twice)} images into {split} that another list has, such as {example}, "
                f"which is in {splits[example]}: an image may be in one split only"
            )
        splits |= dict.fromkeys(ids, split)
    return splits


def _number_in(name: Any) -> int:
    """The image id at the end of a file name such as val2014/COCO_val2014_000000391895.jpg."""
    stem = _text(name).rpartition("/")[2].rpartition(".")[0]
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not digits:
        raise ValueError(f"the image name {reprlib.repr(name)} does not end in a number")
    return int(digits)


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:  # a bool is an int to isinstance
        raise TypeError(f"the image id {reprlib.repr(value)} is not a whole number of 64 bits")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is not a text")
    value.encode()  # half a surrogate pair, which JSON can hold and a table cannot, is a ValueError here
    return value


def _malformed(source: Path, kind: str, error: Exception) -> UserError:
    what = f"it lacks, or does not know, {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"{source} is not {kind}: {what}")


def hashed_split(image_id: int, seed: int, val_share: float, test_share: float) -> str:
    """The split of an image by a hash of its id: other images do not move it when some are added or removed."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"
