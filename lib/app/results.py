"""Read generated captions, and pair them with the reference captions of their images.

Results are a COCO results JSON, [{"image_id": 1, "caption": "a dog"}, ...]; JSON Lines of such objects; a JSON object
{image: caption}; or CSV or TSV with a header. An image is named by its id or its file name.
"""

import csv
import io
import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lib.core.errors import UserError, readable_errors
from lib.datasets.annotations import read_annotations

# Names of columns, the most specific first: "id" alone may be the id of a caption.
_IDS = ("image_id", "imageid", "img_id", "cocoid", "imgid")
_NAMES = ("file_name", "filename", "image_name", "image_path", "file_path", "filepath", "image", "file", "path", "name")
_IMAGES = (*_IDS, *_NAMES, "id", "key")
_CAPTIONS = ("caption", "prediction", "predicted_caption", "generated_caption", "generated", "hypothesis", "text")
_FORMS = 'a COCO results JSON, [{"image_id": 1, "caption": "a dog"}, ...], JSON Lines, or CSV with a header'


class Result(NamedTuple):
    """A generated caption."""

    image: str  # an id or a file name
    is_name: bool  # whether `image` comes from a column of file names
    caption: str


class EvaluationSet(NamedTuple):
    """The images to score, in the order of the references. The lists have one item per image."""

    image_ids: list[Any]
    file_names: list[str]
    captions: list[str]
    references: list[list[str]]
    notes: list[str]  # what was left out, one line each


class References:
    """The reference captions of a file that `read_annotations` reads, or of one of its splits. Raises UserError."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        images, captions = read_annotations(path)
        self._path, self._split = path, split
        self._ids, self._file_names = images["image_id"].tolist(), images["file_name"].tolist()
        if not self._ids:
            raise UserError(f"{path} has no images. Use a file with reference captions")
        splits = images["split"].tolist() if "split" in images.columns else [None] * len(images)
        if split is not None and split not in splits:
            known = ", ".join(sorted({str(name) for name in splits if name})) or "no splits"
            raise UserError(f"--split {split}: {path} has {known}. Name one of these, or leave --split out")
        self._in_split = [split is None or name == split for name in splits]
        self._captions: dict[Any, list[str]] = {}
        for image_id, caption in zip(captions["image_id"].tolist(), captions["caption"].tolist(), strict=True):
            self._captions.setdefault(image_id, []).append(caption)
        self._rows: dict[str, dict[str, list[int]]] = {}  # by kind of key and key

    def pair(self, path: Path) -> EvaluationSet:
        """Pair the results of a file with the references. Raises UserError, also for unknown and repeated images."""
        found: dict[int, str] = {}
        unknown, repeated, other_split, without_references, other_folder = [], [], [], [], []
        for result in read_results(path):
            row, kind = self._find(result, path)
            if row is None:
                unknown.append(result.image)
            elif row in found:
                repeated.append(result.image)
            else:
                found[row] = result.caption
                if kind in ("name", "stem") and _differ_in_folder(result.image, self._file_names[row]):
                    other_folder.append(f"{result.image} with {self._file_names[row]}")
        if unknown:
            raise UserError(
                f"{path}: {_count(unknown, 'result')} of images that {self._path} does not have, such as "
                f"{reprlib.repr(unknown[0])}; it has ids such as {reprlib.repr(self._ids[0])} and names such as "
                f"{reprlib.repr(self._file_names[0])}. "
                "Use the references of these images, or remove the results"
            )
        if repeated:
            problem = f"{_count(repeated, 'image')} with more than one result, such as {reprlib.repr(repeated[0])}"
            raise UserError(f"{path}: {problem}. Keep one caption per image")
        rows = []
        for row in sorted(found):
            if not self._in_split[row]:
                other_split.append(self._ids[row])
            elif self._ids[row] not in self._captions:
                without_references.append(self._ids[row])
            else:
                rows.append(row)
        if not rows:
            where = f"the split {self._split} of {self._path}" if self._split else str(self._path)
            raise UserError(f"{path}: none of its {_count(found, 'image')} has a reference caption in {where}")
        wanted = sum(self._in_split)
        missing = [self._ids[row] for row, wanted in enumerate(self._in_split) if wanted and row not in found]
        name = f"the split {self._split}" if self._split else self._path.name
        notes = [
            *_note(missing, f"of the {wanted:,} images of {name} have no result and are left out"),
            *_note(other_split, f"results are left out, because their image is not in the split {self._split}"),
            *_note(without_references, "results are left out, because their image has no reference caption"),
            *_note(other_folder, "results are matched by file name, in another folder"),
        ]
        return EvaluationSet(
            [self._ids[row] for row in rows],
            [self._file_names[row] for row in rows],
            [found[row] for row in rows],
            [self._captions[self._ids[row]] for row in rows],
            notes,
        )

    def _find(self, result: Result, path: Path) -> tuple[int | None, str]:
        """Return the row of a result's image, or None, and by which kind of key. The bare file name comes last."""
        ids, names = ("id", "number"), ("path", "name", "stem")
        for kind in (*names, *ids) if result.is_name else (*ids, *names):
            if kind not in self._rows:
                rows: dict[str, list[int]] = self._rows.setdefault(kind, {})
                for row, text in enumerate(self._ids if kind in ids else self._file_names):
                    rows.setdefault(_KEYS[kind](str(text)), []).append(row)
            found = self._rows[kind].get(_KEYS[kind](result.image), [])
            if len(found) > 1:
                problem = f"{reprlib.repr(result.image)} may be any of {len(found)} images of {self._path}"
                raise UserError(f"{path}: {problem}. Name images by image_id, or by file name with the folder")
            if found:
                return found[0], kind
        return None, ""


def read_results(path: Path) -> list[Result]:
    """Read a results file. Raises UserError if it is malformed or has no results."""
    with readable_errors(path):
        results = [_result(row, position, path) for position, row in enumerate(_records(path), 1)]
    if not results:
        raise UserError(f"{path} has no results; expected {_FORMS}")
    return results


def _records(path: Path) -> Iterator[Any]:
    """Yield the rows of a results file, as mappings."""
    data = path.read_bytes()
    is_utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Excel writes it
    text = data.decode("utf-16" if is_utf_16 else "utf-8-sig").lstrip()
    if not text.startswith(("[", "{")):
        yield from _csv_rows(text, path)
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        if text.startswith("["):
            raise
        yield from map(json.loads, filter(str.strip, text.split("\n")))
        return
    if isinstance(content, list):
        yield from content
        return
    for key in ("annotations", "results", "predictions"):
        if isinstance(content.get(key), list):
            yield from content[key]
            return
    if _column(content, _CAPTIONS) and _column(content, _IMAGES):
        yield content
        return
    yield from ({"key": image, "caption": caption} for image, caption in content.items())


def _csv_rows(text: str, path: Path) -> Iterator[Mapping[str, str]]:
    """Yield the rows of a CSV or TSV. The delimiter is the one that the header has most of."""
    delimiter = max(",\t;|", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        if None in row:
            fix = "Put captions that hold it in double quotes"
            raise UserError(f"{path}: line {reader.line_num} has more {delimiter!r} than the header. {fix}")
        yield row


def _result(row: Any, position: int, path: Path) -> Result:
    """Return the result of a row. Raises UserError if it has no image or caption."""
    columns = row if isinstance(row, Mapping) else {}
    image, caption = _column(columns, _IMAGES), _column(columns, _CAPTIONS)
    if image is None or caption is None:
        found = f"it has {', '.join(map(str, columns)) or reprlib.repr(row)}"[:100]
        raise UserError(f"{path}: row {position} has no image_id, file_name or caption; {found}. Expected {_FORMS}")
    key, text = columns[image], columns[caption]
    if isinstance(text, list) and len(text) == 1:  # as coco-caption's Python functions take them
        text = text[0]["caption"] if isinstance(text[0], Mapping) and "caption" in text[0] else text[0]
    if isinstance(key, float) and key.is_integer():  # as pandas writes ids beside a missing one
        key = int(key)
    if not isinstance(text, str) or not isinstance(key, int | float | str) or key == "" or isinstance(key, bool):
        values = f"{image}={reprlib.repr(key)}, {caption}={reprlib.repr(text)}"
        raise UserError(f"{path}: row {position}: {values}. Expected an id or file name, and one caption as text")
    return Result(str(key), _normalise(image) in _NAMES, text)


def _column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the column of `row` that is the first in `names`, in any spelling: "Image ID" is image_id."""
    columns = {_normalise(column): column for column in row}
    return next((columns[name] for name in names if name in columns), None)


@cache
def _normalise(column: str) -> str:
    return re.sub(r"[\s-]+", "_", str(column).strip().lower())


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.strip().replace("\\", "/"))


def _number(text: str) -> str:
    """Return an id without leading zeros, if it is a number."""
    return str(int(text)) if text.isdecimal() else text


# How a result names its image, by kind. Two texts name the same image if their keys are equal.
_KEYS: dict[str, Callable[[str], str]] = {
    "id": str.strip,
    "number": _number,
    "path": lambda name: str(_path(name)),
    "name": lambda name: _path(name).name,
    "stem": lambda name: _path(name).stem,
}


def _differ_in_folder(image: str, file_name: str) -> bool:
    """Return whether both have a folder, and neither path ends with the other one."""
    shorter, longer = sorted((_path(image).parts, _path(file_name).parts), key=len)
    return len(shorter) > 1 and longer[-len(shorter) :] != shorter


def _count(items: Any, noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _note(items: Sequence[Any], text: str) -> list[str]:
    return [f"{len(items):,} {text}, such as {items[0]}"] if items else []
