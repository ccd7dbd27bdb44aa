"""Rows with named fields, as in CSV, JSON Lines, Parquet and lists in JSON: one row per image or per caption."""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.core.errors import UserError
from lib.core.names import IMAGE_NAME, split_word
from lib.datasets.formats.document import Annotations
from lib.datasets.formats.ids import ImageId, from_text, parse_id, str_id

Columns = Mapping[str, Any]  # dataset.local.columns: file_name, caption (one or a list), image_id, split

# Names in lower case with _ between words. The first one that a file has is used.
FILE_NAMES = (
    "file_name", "filename", "image_file_name", "image_filename", "image_file", "image_name", "img_name", "image_path",
    "img_path", "file_path", "filepath", "image", "img", "file", "path", "picture", "photo", "photo_name", "name",
    "key", "image_url", "img_url", "image_urls", "photo_image_url", "coco_url", "url", "uri", "image_link",
)  # fmt: skip
IDS = ("image_id", "img_id", "imgid", "cocoid", "photo_id", "imageid")
LOOSE_IDS = ("id", "key")  # the id of the image in some files, of the row in others
CAPTIONS = (
    "caption", "captions", "caption_text", "caption_str", "text", "texts", "sentence", "sentences", "comment",
    "comments", "description", "descriptions", "image_caption", "image_description", "photo_description", "references",
    "raw", "alt_text", "title", "prompt",
)  # fmt: skip
SPLITS = ("split", "set_name", "subset", "partition", "set", "dataset_split")
REJECTED = ("is_rejected", "is_precanned")  # VizWiz: spam, and answers such as "quality issues are too severe"
_NUMBERED = re.compile(r"(caption|comment|sentence|description|text)s?_?[0-9]+")


def parse_split(value: Any, where: str) -> str:
    """Return train, val or test. Raises UserError. Error messages contain `where`."""
    if split := split_word(value):
        return split
    problem = f"the split must be train, val (or valid, dev) or test; got {reprlib.repr(value)}"
    raise UserError(f"{where}: {problem}. Correct it.")


def normalise(column: Any) -> str:
    """Return a column's name in lower case with _ between words: "Image Name" and "imageName" become image_name."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(column).strip())
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def find_columns(names: Sequence[str], columns: Columns | None = None) -> dict[str, list[str]]:
    """Return the columns of each role (file_name, image_id, loose_id, caption, split, rejected), or [].

    `columns` sets the columns of some roles. Raises UserError if there is no such column.
    """
    by_name = {normalise(name): name for name in reversed(names)}
    numbered = [name for name in names if _NUMBERED.fullmatch(normalise(name))]
    first = {
        "file_name": FILE_NAMES, "image_id": IDS, "loose_id": LOOSE_IDS, "caption": CAPTIONS, "split": SPLITS,
    }  # fmt: skip
    found = {role: [by_name[name] for name in known if name in by_name][:1] for role, known in first.items()}
    if numbered:
        base = [name for name in found["caption"] if normalise(name) in ("caption", "comment", "sentence")]
        found["caption"] = base + numbered
    found["rejected"] = [by_name[name] for name in REJECTED if name in by_name]
    for role, given in (columns or {}).items():
        given = [given] if isinstance(given, str) else list(given)
        if missing := [name for name in given if name not in names]:
            problem = f"there is no column {missing[0]!r}; the columns are {short(names)}"
            raise UserError(f"dataset.local.columns.{role}: {problem}. Use one of them.")
        found[role] = given
    return found


def is_record(row: Any, columns: Columns | None = None) -> bool:
    """Return whether a row is a mapping that names an image and has a caption."""
    if not isinstance(row, dict):
        return False
    found = find_columns(list(row), None if columns and not set(_given(columns)) <= set(row) else columns)
    return bool(found["caption"] and (found["file_name"] or found["image_id"] or found["loose_id"]))


def _given(columns: Columns) -> list[str]:
    return [name for value in columns.values() for name in ([value] if isinstance(value, str) else value)]


def read_records(
    rows: Sequence[Mapping[str, Any]], source: str, kind: str, columns: Columns | None = None, typed: bool = True
) -> Annotations:
    """Return the annotations of `rows`. `typed` is False if all values are text, as in CSV.

    Raises UserError. Error messages contain `source`.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = find_columns(names, columns)
    fix = "Set the right column in dataset.local.columns"
    if not found["caption"]:
        raise UserError(f"{source} has no captions: its columns are {short(names)}. {fix}.caption.")
    name_column, id_column = _image_columns(rows, found, columns or {})
    if not name_column:
        raise UserError(f"{source} names no image: its columns are {short(names)}. {fix}.file_name.")
    split_column = next((c for c in found["split"] if any(row.get(c) not in (None, "") for row in rows)), None)
    images: dict[Any, tuple[str, str | None]] = {}
    captions: list[tuple[Any, str]] = []
    rejected, empty = 0, 0
    for number, row in enumerate(rows, 1):
        where = f"{source}, row {number}"
        image_id, name = _image(row, name_column, id_column, typed, where)
        split = parse_split(row.get(split_column), where) if split_column else None
        if images.setdefault(image_id, (name, split)) != (name, split):
            raise UserError(
                f"{where}: the image {reprlib.repr(image_id)} has {name!r} in {split or 'no split'}, "
                f"but an earlier row has {images[image_id][0]!r} in {images[image_id][1] or 'no split'}. Correct one."
            )
        if any(_is_true(row.get(column)) for column in found["rejected"]):
            rejected += 1
            continue
        for column in found["caption"]:
            texts = _cell_texts(row.get(column), f"{where}: {column}")
            empty += not texts
            captions += [(image_id, text) for text in texts]
    if not typed and id_column:
        ids = dict(zip(images, from_text([str(key) for key in images]), strict=True))
        images, captions = {ids[key]: value for key, value in images.items()}, [(ids[key], c) for key, c in captions]
    notes = rejected_note(rejected)
    if empty:
        notes.append(f"{empty} empty cells of captions")
    used = [name for name in (id_column, name_column, *found["caption"], split_column) if name]
    if unused := [name for name in names if name not in (*used, *found["rejected"])]:
        notes.append(f"columns not used: {short(unused)}")
    kind = f"{kind} ({', '.join(dict.fromkeys(str(name).strip() for name in used))})"
    return tables(source, kind, images, captions, notes)


def _image_columns(
    rows: Sequence[Mapping[str, Any]], found: Mapping[str, list[str]], columns: Columns
) -> tuple[str | None, str | None]:
    """Return the columns of file names and of ids, which may be the same one.

    A column of LOOSE_IDS is used as one of them only if the names or ids are otherwise missing, and if its values fit.
    """
    name_column, id_column, loose = (next(iter(found[role]), None) for role in ("file_name", "image_id", "loose_id"))
    if id_column and "file_name" not in columns and all(_is_image_name(row.get(id_column)) for row in rows):
        name_column = id_column  # AI Challenger's image_id is the file name
    if not id_column and loose and name_column and _one_to_one(rows, loose, name_column):
        id_column = loose
    if not name_column and not id_column and loose and all(_is_stem(row.get(loose)) for row in rows):
        name_column = loose
    return name_column or id_column, id_column


def _image(
    row: Mapping[str, Any], name_column: str, id_column: str | None, typed: bool, where: str
) -> tuple[ImageId, str]:
    """Return the id and the file name of a row's image. Raises UserError."""
    name = row.get(name_column)
    if isinstance(name, dict):  # a cell of Hugging Face's image feature
        name = name.get("path")
    if name_column == id_column and not isinstance(name, str):
        name = str_id(parse_id(name, where))
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: {name_column} must be a file name; got {reprlib.repr(name)}. Correct it.")
    image_id = name if id_column is None else row.get(id_column)
    return parse_id(image_id.strip() if isinstance(image_id, str) and not typed else image_id, where), name


def _cell_texts(value: Any, where: str) -> list[str]:
    is_plain = isinstance(value, str) and value != "" and not value.startswith("[")
    return [value] if is_plain else caption_texts(value, where)


def tables(
    source: str,
    kind: str,
    images: Mapping[Any, tuple[str, str | None]],
    captions: Sequence[tuple[Any, str]],
    notes: list[str],
) -> Annotations:
    """Return annotations from (file name, split or None) by image id, and (image id, caption) pairs.

    Captions whose image is not listed are left out, with a note. The type of the ids is int64 if all are integers, and
    text otherwise. Raises UserError if no caption has a listed image. Error messages contain `source`.
    """
    as_text = {str(image_id): image_id for image_id in images}  # an id may be 42 in one list and "42" in the other
    kept = [(as_text[str(image_id)], text) for image_id, text in captions if str(image_id) in as_text]
    if orphans := len(captions) - len(kept):
        example = next(image_id for image_id, _ in captions if str(image_id) not in as_text)
        if not kept and images:
            problem = f"no caption has the id of an image: captions have ids such as {example!r:.80}"
            raise UserError(f"{source}: {problem}, images such as {next(iter(images))!r:.80}. Correct the ids.")
        reason = f"because their image is not listed, such as image_id {example!r:.80}"
        notes = [*notes, f"{orphans} captions left out, {reason}"]
    for text in (*(text for _, text in kept), *(str(i) for i in images), *(name for name, _ in images.values())):
        check_text(text, source)
    types = {"image_id": "int64" if all(isinstance(image_id, int) for image_id in images) else "str"}
    columns: dict[str, Any] = {"image_id": list(images), "file_name": [name for name, _ in images.values()]}
    if any(split is not None for _, split in images.values()):
        columns["split"] = [split for _, split in images.values()]
    image_table = pd.DataFrame(columns, dtype="object").astype(dict.fromkeys(columns, "str") | types)
    caption_table = pd.DataFrame(kept, columns=["image_id", "caption"], dtype="object")
    return Annotations(kind, image_table, caption_table.astype({"caption": "str"} | types), notes)


def caption_texts(value: Any, where: str) -> list[str]:
    """Return the captions in a cell: text, a list of texts (also as JSON), or objects with a text. Raises UserError."""
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, str):
        if value[:2] == '["' and value[-2:] == '"]':
            try:
                return caption_texts(json.loads(value), where)
            except ValueError:
                pass
        return [check_text(value, where)]
    if isinstance(value, dict):
        for name in ("raw", "caption", "text", "sentence"):
            if isinstance(value.get(name), str):
                return [check_text(value[name], where)]
        if isinstance(value.get("tokens"), list) and all(isinstance(token, str) for token in value["tokens"]):
            return [check_text(" ".join(value["tokens"]), where)]
    if isinstance(value, list):
        return [text for part in value for text in caption_texts(part, where)]
    raise UserError(f"{where}: a caption must be text or a list of texts; got {reprlib.repr(value)}. Correct it.")


def check_text(text: str, where: str) -> str:
    """Return the text. Raises UserError if it has half of a surrogate pair, because UTF-8 cannot encode it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {reprlib.repr(text)} is not valid Unicode. Correct it.") from error
    return text


def rejected_note(count: int) -> list[str]:
    return [f"{count} captions left out, because the file marks them as {' or '.join(REJECTED)}"] if count else []


def short(names: Sequence[Any], limit: int = 8) -> str:
    """Return the first names, separated by commas."""
    shown = ", ".join(reprlib.repr(str(name).strip())[1:-1] for name in list(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"


def _is_image_name(value: Any) -> bool:
    return isinstance(value, str) and bool(IMAGE_NAME.search(value))


def _is_stem(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.strip().isdecimal()


def _is_true(value: Any) -> bool:
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def _one_to_one(rows: Sequence[Mapping[str, Any]], id_column: str, name_column: str) -> bool:
    pairs = {(str(row.get(id_column)), str(row.get(name_column))) for row in rows}
    ids, names = {image_id for image_id, _ in pairs}, {name for _, name in pairs}
    return len(pairs) == len(ids) == len(names) and not ids & {"None", ""}
