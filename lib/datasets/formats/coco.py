"""COCO captions JSON (Chen et al. 2015): images and annotations in two lists, tied by image ids.

An image may have a `split`, and an annotation a list of captions. VizWiz marks captions as rejected.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lib.core.errors import UserError
from lib.datasets.formats.document import Annotations, Document, UnknownFormatError
from lib.datasets.formats.ids import ImageId, parse_id
from lib.datasets.formats.records import REJECTED, SPLITS, caption_texts, check_text, parse_split, rejected_note, tables

_NAMES = ("file_name", "filename", "coco_url", "flickr_url", "url", "path")


def read(document: Document) -> Annotations | None:
    content = document.json
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    annotations = read_coco(content, str(document.path))
    if annotations.captions.empty:
        fix = "Use the file that has the captions."
        raise UnknownFormatError(f"{document.path} has no captions: its annotations are empty or all rejected. {fix}")
    return annotations


def read_coco(content: Any, source: str) -> Annotations:
    """Read a parsed COCO captions JSON. Raises UserError. Error messages contain `source` and the place."""
    images: dict[Any, tuple[str, str | None]] = {}
    image_ids = []
    rows = rows_of(content, "images", source)
    key = next((key for key in SPLITS if any(row.get(key) not in (None, "") for row in rows)), None)
    for i, row in enumerate(rows):
        where = f"{source}: images[{i}]"
        image_id = parse_id(field(row, ("id", "image_id"), where), f"{where}['id']")
        name = field(row, _NAMES, where)
        if not isinstance(name, str):
            raise UserError(f"{where}['file_name'] must be text; got {name!r:.80}. Correct it.")
        value = check_text(name, where), parse_split(row.get(key), f"{where}[{key!r}]") if key else None
        image_ids.append(image_id)
        images[image_id] = value
    check_unique(image_ids, source)
    rows = rows_of(content, "annotations", source)
    if rows and not any("caption" in row or "captions" in row for row in rows):
        problem = (
            f"annotations[0]['caption'] is missing, as in all annotations, which have {', '.join(list(rows[0])[:6])}"
        )
        raise UnknownFormatError(f"{source} has no captions: {problem}. Use the file that has the captions.")
    captions: list[tuple[Any, str]] = []
    rejected = 0
    for i, row in enumerate(rows):
        own_id, text = row.get("image_id"), row.get("caption")
        if type(own_id) is int and type(text) is str and text.isascii() and row.keys().isdisjoint(REJECTED):
            captions.append((own_id, text))  # without the text for errors, because COCO has 600,000 captions
            continue
        where = f"{source}: annotations[{i}]"
        image_id = parse_id(field(row, ("image_id",), where), f"{where}['image_id']")
        texts = caption_texts(field(row, ("caption", "captions"), where), f"{where}['caption']")
        if row.get("caption", "") is None:
            raise UserError(f"{where}['caption'] must be text; got None. Correct it.")
        if any(row.get(flag) for flag in REJECTED):
            rejected += 1
        else:
            captions += [(image_id, text) for text in texts or [""]]
    return tables(source, "COCO captions JSON", images, captions, rejected_note(rejected))


def check_unique(image_ids: Sequence[ImageId], source: str) -> None:
    """Raise UserError if an id is repeated."""
    if repeated := [image_id for image_id, count in Counter(image_ids).items() if count > 1]:
        problem = f"{len(repeated)} image ids occur more than once, such as {repeated[0]!r}"
        raise UserError(f"{source}: {problem}. List each image once, with its folder and all its captions.")


def rows_of(content: Any, key: str, source: str) -> list[dict[str, Any]]:
    """Return the list of objects `content[key]`. Raises UserError."""
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{source} is not a COCO captions JSON: `{key}` must be a list; got {rows!r:.80}. Correct it.")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{source}: {key}[{i}] must be an object; got {row!r:.80}. Correct it.")
    return rows


def field(row: dict[str, Any], names: tuple[str, ...], where: str) -> Any:
    """Return the first field that the row has. Raises UserError."""
    for name in names:
        if row.get(name) is not None or (name in row and len(names) == 1):
            return row[name]
    if names[0] in row:
        return row[names[0]]
    found = ", ".join(map(repr, list(row)[:8])) or "nothing"
    raise UserError(f"{where}[{names[0]!r}] is missing; the object has {found}. Add the field.")
