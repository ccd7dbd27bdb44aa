"""Readers of caption formats: COCO captions JSON, Karpathy JSON, and Karpathy's split as lists.

COCO captions JSON (Chen et al. 2015) and Karpathy JSON (Karpathy & Fei-Fei 2015) are the schemas below. Karpathy's
lists are one file per split, [{"image": "val2014/COCO_val2014_000000391895.jpg", ...}]; train has one row per caption,
the others one row per image.

A reader takes the parsed content and the path of its file, and returns two tables: images (image_id, file_name and, if
the format has it, split) and captions (image_id, caption). It raises UserError for anything malformed.
"""

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import pandas as pd
from pydantic import AliasChoices, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from lib.core.errors import UserError, readable_errors

Tables = tuple[pd.DataFrame, pd.DataFrame]


def _parse_digits(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


_Id = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63), BeforeValidator(_parse_digits)]
_Text = Annotated[str, Field(min_length=0)]  # any constraint makes pydantic reject half of a surrogate pair


class _CocoImage(TypedDict):
    image_id: Annotated[_Id, Field(validation_alias="id")]
    file_name: _Text


class _CocoCaption(TypedDict):
    image_id: _Id
    caption: _Text


class _Sentence(TypedDict):
    raw: _Text


class _KarpathyImage(TypedDict):
    image_id: Annotated[_Id, Field(validation_alias=AliasChoices("cocoid", "imgid"))]
    filepath: NotRequired[_Text | None]  # a folder
    filename: _Text
    split: Literal["train", "restval", "val", "test"]  # restval: the part of COCO's val that papers train on
    sentences: list[_Sentence]


class _ListedImage(TypedDict):
    image: str


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32. Raises UserError."""
    with readable_errors(path):
        return json.loads(path.read_bytes())


def read_annotations(path: Path) -> Tables:
    """Read a captions file of any supported format. Raises UserError."""
    content = read_json(path)
    is_coco = isinstance(content, dict) and "annotations" in content
    return read_coco(content, path) if is_coco else read_karpathy(content, path)


def read_coco(content: Any, source: Path) -> Tables:
    """Read a COCO captions JSON, which has no split."""
    images = _rows(content, "images", list[_CocoImage], source, "a COCO captions JSON")
    captions = _rows(content, "annotations", list[_CocoCaption], source, "a COCO captions JSON")
    return _table(images, "file_name"), _table(captions, "caption")


def read_karpathy(content: Any, source: Path) -> Tables:
    """Read a Karpathy JSON."""
    rows = _rows(content, "images", list[_KarpathyImage], source, "a Karpathy or COCO captions JSON")
    for row in rows:
        row["file_name"] = "/".join(filter(None, (row.get("filepath"), row["filename"])))
    images = _table(rows, "file_name", "split").replace({"split": {"restval": "train"}})
    captions = [(row["image_id"], sentence["raw"]) for row in rows for sentence in row["sentences"]]
    return images, _table(captions, "caption")


def _rows(content: Any, key: str, schema: Any, source: Path, kind: str) -> list[Any]:
    """Return the fields of `schema` from the list `content[key]`. Raises UserError for the first wrong value."""
    try:
        return TypeAdapter(schema).validate_python(content.get(key) if isinstance(content, dict) else None)
    except ValidationError as error:
        first = error.errors()[0]
        place = key + "".join(f"[{part!r}]" for part in first["loc"])
        problem = f"{first['msg']}; got {reprlib.repr(first['input'])}"
        raise UserError(f"{source} is not {kind}: {place}: {problem}") from error


def _table(rows: list[Any], *columns: str) -> pd.DataFrame:
    """Return a table with explicit types, because an empty list has none."""
    table = pd.DataFrame(rows, columns=["image_id", *columns])
    return table.astype({"image_id": "int64", **dict.fromkeys(columns, "str")})


def read_karpathy_lists(sources: Mapping[str, Path]) -> dict[int, str]:
    """Return the split of each image id from one list per split. Raises UserError, also for an id in two splits."""
    splits: dict[int, str] = {}
    for split, source in sources.items():
        content = {"rows": read_json(source)}
        for row in _rows(content, "rows", list[_ListedImage], source, "one of Karpathy's lists"):
            match = re.search(r"(?<![0-9])([0-9]{1,18})\.[^./]*\Z", row["image"])
            if not match or splits.setdefault(int(match[1]), split) != split:
                problem = "should end in a number of up to 18 digits, and be in one split only"
                raise UserError(f"{source}: the image {reprlib.repr(row['image'])} {problem}")
    return splits


def hashed_split(image_id: int, seed: int, val_share: float, test_share: float) -> str:
    """Return a split that depends on this image's id alone, so adding or removing images moves no other image."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64  # in [0, 1)
    return "test" if uniform < test_share else "val" if uniform < test_share + val_share else "train"
