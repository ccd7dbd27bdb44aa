"""Other JSON whose meaning is clear, JSON Lines, and Parquet: rows that name an image and have captions.

BLIP, AI Challenger, TextCaps, Label Studio's JSON-MIN, Hugging Face's metadata.jsonl, kohya's metadata, LAION's and
img2dataset's Parquet, and tables that pandas wrote as JSON.
"""

import io
from typing import Any

import pandas as pd

from lib.core.errors import UserError, readable_errors
from lib.core.names import IMAGE_NAME, split_word
from lib.datasets.formats.document import Annotations, Document
from lib.datasets.formats.records import Columns, find_columns, is_record, read_records, tables

_LISTS = ("data", "annotations", "images", "items", "records", "rows", "samples", "captions")


def read(document: Document, columns: Columns | None = None) -> Annotations | None:
    source = str(document.path)
    if document.is_parquet:
        with readable_errors(document.path):
            table = pd.read_parquet(io.BytesIO(document.content), dtype_backend="pyarrow")
            rows = table.to_dict("records")
        for row in rows:
            row.update({name: None for name, value in row.items() if value is pd.NA})
            row.update({name: value.tolist() for name, value in row.items() if hasattr(value, "tolist")})
        return read_records(rows, source, "Parquet", columns)
    content = document.json
    if content is None:
        lines = document.json_lines if _may_be_json_lines(document) else None
        if lines is None:
            return None
        if not any(is_record(row, columns) for row in lines):
            return None
        return read_records(_objects(lines, source), source, "JSON Lines", columns)
    if rows := _rows(content, columns):
        return read_records(_objects(rows, source), source, "JSON list", columns)
    if isinstance(content, dict) and content and _is_by_name(content):
        pairs = [(name, text) for name, value in content.items() for text in _texts(value)]
        names = {name: (name, None) for name in content}
        return tables(source, "JSON object of captions by file name", names, pairs, [])
    return None


def _may_be_json_lines(document: Document) -> bool:
    return document.content.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] == b"{"


def _rows(content: Any, columns: Columns | None) -> list[Any] | None:
    """Return the rows in a JSON value, or None if its meaning is not clear."""
    if isinstance(content, list):
        return content if any(is_record(row, columns) for row in content) else None
    if not isinstance(content, dict) or not content:
        return None
    if is_record(content, columns) and not _is_table(content):
        return [content]
    if all(isinstance(value, list) and split_word(key) for key, value in content.items()):
        parts = [(split_word(key), row) for key, rows in content.items() for row in rows]
        if any(is_record(row, columns) for _, row in parts):
            return [{"split": split, **row} if isinstance(row, dict) else row for split, row in parts]
    if all(isinstance(value, dict) for value in content.values()):
        rows = [{"file_name": name, **row} for name, row in content.items()]
        if any(find_columns(list(row))["caption"] for row in rows) and not _is_table(content):
            return rows
    if _is_table(content):
        values = [list(column.values()) if isinstance(column, dict) else column for column in content.values()]
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    for key in _LISTS:
        if isinstance(content.get(key), list) and any(is_record(row, columns) for row in content[key]):
            return content[key]
    return None


def _is_table(content: dict[str, Any]) -> bool:
    """Return whether the content is a table by columns: {"image": [...], "caption": [...]}."""
    found = find_columns(list(content))
    if not found["caption"] or not (found["file_name"] or found["image_id"]):
        return False
    kinds = (list,) if isinstance(next(iter(content.values())), list) else (dict,)
    return all(isinstance(value, kinds) for value in content.values()) and len({*map(len, content.values())}) == 1


def _is_by_name(content: dict[str, Any]) -> bool:
    lists = all(isinstance(value, list) and value for value in content.values())
    texts = all(isinstance(text, str) for value in content.values() for text in _texts(value))
    return texts and all(_texts(v) for v in content.values()) and (lists or all(map(IMAGE_NAME.search, content)))


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _objects(rows: list[Any], source: str) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{source}, row {number} must be an object; got {row!r:.80}. Correct it.")
    return rows
