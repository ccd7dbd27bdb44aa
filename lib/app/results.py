"""Read generated captions, and pair them with the reference captions of their images.

Results are a COCO results JSON, [{"image_id": 1, "caption": "a dog"}, ...]; JSON Lines of such objects; a JSON object
{image: caption}; or CSV or TSV with a header. An image is named by its id or its file name.
"""

import reprlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lib.core.errors import UserError, readable_errors
from lib.core.names import match_names
from lib.datasets.annotations import read_annotations
from lib.datasets.formats.delimited import DELIMITERS, parse_rows, split_rows
from lib.datasets.formats.document import Document
from lib.datasets.formats.ids import parse_id, str_id
from lib.datasets.formats.records import caption_texts, check_text, find_columns, normalise

# Names of the column of captions, the most specific first.
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
    """Reference captions from a file that `read_annotations` can read: all, or those of one split. Raises UserError."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        images, captions = read_annotations(path)
        self._path, self._split = path, split
        self._ids, self._file_names = images["image_id"].tolist(), images["file_name"].tolist()
        if not self._ids:
            raise UserError(f"{path} has no images. Use a file with reference captions.")
        splits = images["split"].tolist() if "split" in images.columns else [None] * len(images)
        if split is not None and split not in splits:
            known = ", ".join(sorted({str(name) for name in splits if name})) or "none"
            raise UserError(f"--split {split}: the splits of {path} are: {known}. Use one of them, or omit --split.")
        self._in_split = [split is None or name == split for name in splits]
        self._captions: dict[Any, list[str]] = {}
        for image_id, caption in zip(captions["image_id"].tolist(), captions["caption"].tolist(), strict=True):
            self._captions.setdefault(image_id, []).append(caption)

    def pair(self, path: Path) -> EvaluationSet:
        """Pair the results of a file with the references.

        Raises UserError if the file is malformed, or if an image in it is unknown or occurs twice.
        """
        results, notes = read_results(path)
        found = self._match(results, path)
        ids = self._ids
        rows = [row for row in sorted(found) if self._in_split[row] and ids[row] in self._captions]
        if not rows:
            where = f"the split {self._split} of {self._path}" if self._split else str(self._path)
            problem = f"of {_count(found, 'image')} in the results, none has a reference caption in {where}"
            raise UserError(f"{path}: {problem}. Use references and results of the same images.")
        wanted = [row for row, in_split in enumerate(self._in_split) if in_split]
        missing = [ids[row] for row in wanted if row not in found]
        other_split = [ids[row] for row in sorted(found) if not self._in_split[row]]
        unreferenced = [ids[row] for row in wanted if row in found and ids[row] not in self._captions]
        name = f"the split {self._split}" if self._split else self._path.name
        notes += [
            *_note(missing, f"of the {len(wanted):,} images of {name} have no result and are left out"),
            *_note(other_split, f"results are left out, because their image is not in the split {self._split}"),
            *_note(unreferenced, "results are left out, because their image has no reference caption"),
        ]
        return EvaluationSet(
            [ids[row] for row in rows],
            [self._file_names[row] for row in rows],
            [found[row] for row in rows],
            [self._captions[ids[row]] for row in rows],
            notes,
        )

    def _match(self, results: Sequence[Result], path: Path) -> dict[int, str]:
        """Return the caption by row of the references. Raises UserError for unknown and repeated images."""
        found: dict[int, str] = {}
        unknown, repeated = [], []
        for result, row in zip(results, self._find(results, path), strict=True):
            if row is None:
                unknown.append(result.image)
            elif row in found:
                repeated.append(result.image)
            else:
                found[row] = result.caption
        if unknown:
            raise UserError(
                f"{path}: {_count(unknown, 'result')} for images that are not in {self._path}, such as "
                f"{reprlib.repr(unknown[0])}; its ids are such as {reprlib.repr(self._ids[0])}, its file names such as "
                f"{reprlib.repr(self._file_names[0])}. Correct the ids, names or folders, or remove the results."
            )
        if repeated:
            problem = f"{_count(repeated, 'image')} with more than one result, such as {reprlib.repr(repeated[0])}"
            raise UserError(f"{path}: {problem}. Keep one caption per image.")
        return found

    def _find(self, results: Sequence[Result], path: Path) -> list[int | None]:
        """Return the row of each result's image, or None. Raises UserError if an id or name is ambiguous.

        An id is compared with the ids of the references, first as text, then without leading zeros. If none is equal,
        it is compared with the file names. A value from a column of file names is compared with the file names first,
        and then with the ids.
        """
        ids = [str(image_id).strip() for image_id in self._ids]
        by_id, by_number, by_name = _index(ids), _index(map(_number, ids)), _index(self._file_names)
        found = [by_id.get(result.image) or by_number.get(_number(result.image), []) for result in results]
        named = [i for i, result in enumerate(results) if result.is_name or not found[i]]
        matches = match_names([results[i].image for i in named], self._file_names)
        ambiguous = [i for i, match in zip(named, matches, strict=True) if match.reason == "ambiguous"]
        for i, match in zip(named, matches, strict=True):
            found[i] = by_name[match.name] if match.name is not None else found[i]
        for i in [*ambiguous, *(i for i, rows in enumerate(found) if len(rows) > 1)]:
            problem = f"{reprlib.repr(results[i].image)} fits several images of {self._path}"
            fix = "Name each image once, by image_id or by file name with the folder."
            raise UserError(f"{path}: {problem}, or another result has the same image. {fix}")
        return [rows[0] if rows else None for rows in found]


def read_results(path: Path) -> tuple[list[Result], list[str]]:
    """Read a results file, and return notes about it. Raises UserError if it is malformed or has no results."""
    with readable_errors(path):
        document = Document(path.read_bytes(), path)
        results = [_result(row, f"{path}: row {number}") for number, row in enumerate(_rows(document), 1)]
    if not results:
        raise UserError(f"{path} has no results. Use {_FORMS}.")
    return results, document.notes


def _rows(document: Document) -> list[Any]:
    """Return the rows of a results file, as mappings."""
    content = document.json
    if isinstance(content, list):
        return content
    if content is None:
        return document.json_lines or _table_rows(document)
    for key in ("annotations", "results", "predictions"):
        if isinstance(content.get(key), list):
            return content[key]
    image, _, caption = _columns(tuple(content))
    if image and caption:
        return [content]
    return [{"image_id": image, "caption": caption} for image, caption in content.items()]


def _table_rows(document: Document) -> list[dict[str, str]]:
    """Return the rows of a CSV or TSV. The delimiter is the one that occurs most often in the header."""
    delimiter = max(DELIMITERS, key=document.text.lstrip().partition("\n")[0].count)
    header = next(iter(parse_rows(document.text, delimiter)), [""])
    caption = _columns(tuple(header))[2]
    rows, bad = split_rows(document, delimiter, header, 1, header[-1] == caption)
    if bad:
        number, cells = bad[0]
        problem = f"row {number} has {len(cells)} cells, but the header has {len(header)}"
        raise UserError(f"{document.path}: {problem}. Put captions that contain {delimiter!r} in double quotes.")
    return rows


def _result(row: Any, where: str) -> Result:
    """Return the result in a row. Raises UserError if it has no image, or no caption, or several captions."""
    columns = row if isinstance(row, dict) else {}
    image, is_name, caption = _columns(tuple(columns))
    if image is None or caption is None:
        found = f"it has {', '.join(map(str, columns)) or reprlib.repr(row)}"[:100]
        raise UserError(f"{where} needs an image_id or file_name, and a caption; {found}. Use {_FORMS}.")
    value = columns[caption]
    if isinstance(value, list) and len(value) == 1:  # as coco-caption's Python functions take them
        value = value[0]
    # An empty caption is a result, but caption_texts() would drop it.
    texts = [check_text(value, where)] if isinstance(value, str) else caption_texts(value, f"{where}: {caption}")
    if len(texts) != 1:
        raise UserError(f"{where}: {caption}={reprlib.repr(value)}: this must be one caption as text. Correct it.")
    return Result(str_id(parse_id(columns[image], f"{where}: {image}")).strip(), is_name, texts[0])


@cache
def _columns(names: tuple[str, ...]) -> tuple[str | None, bool, str | None]:
    """Return the column of images, whether it contains file names, and the column of captions.

    A missing column is None.
    """
    roles = find_columns(names)
    image = next(iter(roles["image_id"] or roles["file_name"] or roles["loose_id"]), None)
    by_name = {normalise(name): name for name in names}
    caption = next((by_name[name] for name in _CAPTIONS if name in by_name), None)
    return image, not roles["image_id"] and bool(roles["file_name"]), caption


def _number(text: str) -> str:
    """Return an id without leading zeros, if it is a number."""
    return (text.lstrip("0") or "0") if text.isdecimal() else text


def _index(keys: Iterable[str]) -> dict[str, list[int]]:
    """Return the positions of each key."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return rows


def _count(items: Any, noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _note(items: Sequence[Any], text: str) -> list[str]:
    return [f"{len(items):,} {text}, such as {items[0]}"] if items else []
