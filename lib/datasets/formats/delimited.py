"""CSV and TSV: Kaggle's Flickr8k captions.txt, Flickr30k's results.csv, and any with a column of file names.

The delimiter (comma, tab, semicolon or |) is the one that gives a header with known columns. A file without a header
needs two columns: file names or URLs, and captions (Conceptual Captions).
"""

import csv
import io
import re
from typing import Any

from lib.core.errors import UserError
from lib.core.names import IMAGE_NAME
from lib.datasets.formats.document import Annotations, Document
from lib.datasets.formats.records import Columns, find_columns, read_records, short

DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with ;", "|": "CSV with |"}
_HIDDEN_ROW = re.compile(r"(?i)\n[^\n,;|\t]*\.(jpe?g|png|webp|gif)[,;|\t]")
_MAX_BAD = 0.05  # maximum share of rows that do not fit the header


def read(document: Document, columns: Columns | None = None) -> Annotations | None:
    if document.is_parquet or document.json is not None:
        return None
    text = document.text
    best: tuple[int, str, list[str]] | None = None
    for delimiter in DELIMITERS:
        header = [cell.strip() for cell in next(iter(parse_rows(text[:100_000], delimiter)), [])]
        if len(header) < 2 or len(set(header)) < len(header):
            continue
        found = find_columns(header)
        is_known = columns or (found["caption"] and (found["file_name"] or found["image_id"] or found["loose_id"]))
        if is_known and (best is None or len(header) > best[0]):
            best = len(header), delimiter, header
    if best:
        return _read(document, best[1], best[2], 1, columns)
    for delimiter in DELIMITERS:
        rows = parse_rows(text, delimiter)
        for name_column in (0, 1):
            fitting = sum(len(row) == 2 and _is_name(row[name_column]) for row in rows)
            if rows and fitting >= 0.95 * len(rows):
                header = ["image", "caption"] if name_column == 0 else ["caption", "image"]
                return _read(document, delimiter, header, 0, None)
    return None


def describe_header(document: Document) -> str:
    """Return a hint if the content looks like a table with unknown columns, or an empty text."""
    for delimiter, name in DELIMITERS.items():
        rows = parse_rows(document.text[:100_000], delimiter)
        if len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows[:5]}) == 1:
            return f" As {name}, its columns are {short(rows[0], 6)}: name them in dataset.local.columns."
    return ""


def _is_name(cell: str) -> bool:
    return (bool(IMAGE_NAME.search(cell)) and " " not in cell.strip()) or cell.startswith(("http://", "https://"))


def _read(document: Document, delimiter: str, header: list[str], skip: int, columns: Columns | None) -> Annotations:
    caption_last = header[-1] in find_columns(header, columns)["caption"]
    records, bad = split_rows(document, delimiter, header, skip, caption_last)
    if len(bad) > _MAX_BAD * (len(records) + len(bad)) + 1 or not records:
        if not bad:
            raise UserError(f"{document.path}: there is a header, but no rows. Add one row per caption.")
        problem = f"the header has {len(header)} columns, but row {bad[0][0]} has {len(bad[0][1])}"
        raise UserError(f"{document.path}: {problem}. Correct the rows.")
    annotations = read_records(records, str(document.path), DELIMITERS[delimiter], columns, typed=False)
    if bad:
        annotations.notes.append(
            f"{len(bad)} rows left out, because they have another number of columns than the header; "
            f"the first is row {bad[0][0]}: {short(bad[0][1])}"
        )
    return annotations


def split_rows(
    document: Document, delimiter: str, header: list[str], skip: int, caption_last: bool
) -> tuple[list[dict[str, str]], list[tuple[int, list[str]]]]:
    """Return the rows as mappings, and the number and cells of each row that does not fit the header.

    The first `skip` rows are left out. If `caption_last`, the last cell may contain the delimiter. Raises UserError.
    """
    quotings = (csv.QUOTE_MINIMAL, csv.QUOTE_NONE) if '"' in document.text else (csv.QUOTE_MINIMAL,)
    parsed = [parse_rows(document.text, delimiter, quoting) for quoting in quotings]
    # Some files quote no cell, but have captions with a quotation mark.
    # An unclosed quotation mark merges many rows into one. So of two equally good results, use the longer.
    rows = min(parsed, key=lambda rows: (sum(len(row) != len(header) for row in rows), -len(rows)))[skip:]
    records, bad = [], []
    for number, row in enumerate(rows, 1 + skip):
        if len(row) > len(header) and caption_last:
            row = [*row[: len(header) - 1], delimiter.join(row[len(header) - 1 :])]
        if len(row) == len(header):
            if any("\n" in cell and _HIDDEN_ROW.search(cell) for cell in row):
                problem = f"row {number} ({row[0]:.60}): a cell contains the rows that follow it"
                raise UserError(f"{document.path}: {problem}. Close the quotation mark of this cell.")
            records.append({name: cell.strip() for name, cell in zip(header, row, strict=True)})
        else:
            bad.append((number, row))
    return records, bad


def parse_rows(text: str, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL) -> list[list[str]]:
    """Return the cells of the rows that are not blank, or [] if the text is not a table."""
    csv.field_size_limit(2**31 - 1)
    blank = f'{delimiter} "' in text  # a blank before a quoted cell is not part of it
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=delimiter, quoting=quoting, skipinitialspace=blank)
    try:
        return [row for row in reader if any(map(str.strip, row))]
    except csv.Error:
        return []
