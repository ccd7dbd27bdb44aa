"""Readers of the annotation formats of the field: COCO captions JSON, Karpathy JSON, and Karpathy's split as lists.

COCO captions JSON (Chen et al. 2015): {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
Karpathy JSON (Karpathy & Fei-Fei 2015): {"images": [{"filename", "split", "sentences": [{"raw"}], "imgid"}]},
with the image id in "cocoid" where there is one, and a folder in "filepath".
Karpathy's lists: a file a split, [{"image": "val2014/COCO_val2014_000000391895.jpg", ...}], in which train has a row a
caption and the others a row an image.

What a file holds is taken as it is, or refused: an id may be written as a text, but where one is a fraction, or a
caption is null, the file is not what it seems; the error names the place.
"""

import contextlib
import hashlib
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from lib.core.errors import UserError

# Karpathy's restval images are the part of COCO's own validation set that everyone trains on.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}

_Read = TypeVar("_Read")


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
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("; use sys.")[0]  # what follows is advice for programmers
        raise UserError(f"{source} is not JSON, or not all of it is there: {reason}") from error


def is_karpathy(content: Any) -> bool:
    return isinstance(content, dict) and "annotations" not in content and "images" in content


def read_coco(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name; captions: image_id, caption) of a COCO captions JSON. Raises UserError."""
    with _told(source, "a COCO captions JSON"):
        images = _each(content, "images", lambda image: (_number(image, "id"), _text(image, "file_name")))
        captions = _each(content, "annotations", lambda row: (_number(row, "image_id"), _text(row, "caption")))
    return _table(images, "file_name"), _table(captions, "caption")


def read_karpathy(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name, split; captions: image_id, caption) of a Karpathy JSON. Raises UserError."""
    with _told(source, "a Karpathy JSON"):
        read = _each(content, "images", _karpathy_image)
    images = [image for image, _ in read]
    captions = [(image_id, caption) for (image_id, *_), captions in read for caption in captions]
    return _table(images, "file_name", "split"), _table(captions, "caption")


def _karpathy_image(image: Any) -> tuple[tuple[int, str, str], list[str]]:
    """(image id, file name, split), and the captions."""
    name, split = _text(image, "filename"), _text(image, "split")
    if image.get("filepath"):
        name = f"{_text(image, 'filepath')}/{name}"
    if split not in _KARPATHY_SPLITS:
        raise _Malformed(f"'split' is {reprlib.repr(split)}, and should be {', '.join(_KARPATHY_SPLITS)}")
    image_id = _number(image, "cocoid" if "cocoid" in image else "imgid")
    return (image_id, name, _KARPATHY_SPLITS[split]), _each(image, "sentences", lambda each: _text(each, "raw"))


def _table(rows: list[Any], *texts: str) -> pd.DataFrame:
    """Types are given, since there is nothing in an empty list that they could be guessed from."""
    table = pd.DataFrame(rows, columns=["image_id", *texts])
    return table.astype({"image_id": "int64", **dict.fromkeys(texts, "str")})


def read_karpathy_lists(sources: Mapping[str, Path]) -> dict[int, str]:
    """The split of each image id; `sources` has each split's list. Raises UserError, also for an id in two of them."""
    splits: dict[int, str] = {}
    for split, source in sources.items():
        content = read_json(source)
        with _told(source, "one of Karpathy's lists"):
            ids = {_number_in(name) for name in set(_rows(content, "row", lambda row: _text(row, "image")))}
        if twice := ids & splits.keys():
            example = min(twice)
            raise UserError(
                f"{source} puts {len(twice)} images into {split} that another list has, such as {example}, "
                f"which is in {splits[example]}: an image may be in one split only"
            )
        splits |= dict.fromkeys(ids, split)
    return splits


class _Malformed(Exception):
    """What is wrong with a file, and in which place of it."""


@contextlib.contextmanager
def _told(source: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _Malformed as error:
        raise UserError(f"{source} is not {kind}: {error}") from error


def _each(record: Any, key: str, read: Callable[[Any], _Read]) -> list[_Read]:
    """What `read` makes of each row of the list that `record` has under `key`."""
    return _rows(_value(record, key), key, read)


def _rows(rows: Any, name: str, read: Callable[[Any], _Read]) -> list[_Read]:
    if not isinstance(rows, list):
        raise _Malformed(f"{reprlib.repr(rows)} is not a list of {name}")
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(read(row))
        except _Malformed as error:
            raise _Malformed(f"{name}[{i}]: {error}") from error
    return found


def _value(record: Any, key: str) -> Any:
    if not isinstance(record, dict):
        raise _Malformed(f"{reprlib.repr(record)} is not an object")
    if key not in record:
        raise _Malformed(f"it lacks {key!r}")
    return record[key]


def _number(record: Any, key: str) -> int:
    value = _value(record, key)
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:  # a bool is an int to isinstance
        raise _Malformed(f"{key!r} is {reprlib.repr(value)}, and should be a whole number of 64 bits")
    return value


def _text(record: Any, key: str) -> str:
    value = _value(record, key)
    if not isinstance(value, str):
        raise _Malformed(f"{key!r} is {reprlib.repr(value)}, and should be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise _Malformed(f"{key!r} has {half!r} in it, which is half a character: write both, or none") from error
    return value


def _number_in(name: str) -> int:
    """The image id at the end of a file name such as val2014/COCO_val2014_000000391895.jpg."""
    stem = name.rpartition("/")[2].rpartition(".")[0]
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not 0 < len(digits) < 19:
        raise _Malformed(f"the image name {reprlib.repr(name)} does not end in a number of up to 18 digits")
    return int(digits)


def hashed_split(image_id: int, seed: int, val_share: float, test_share: float) -> str:
    """The split of an image by a hash of its id: other images do not move it when some are added or removed."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"
