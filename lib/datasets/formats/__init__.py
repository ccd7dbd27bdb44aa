"""Readers of caption files, one module per format. Each recognises its format by content.

Each module has a function `read(document) -> Annotations | None`. It returns None if the content has another format. It
raises UserError if the content has this format, but is malformed. To add a format, write a module and add it to
`_READERS`.
"""

from collections.abc import Callable
from functools import partial

from lib.core.errors import UserError, readable_errors
from lib.datasets.formats import coco, delimited, flickr_tokens, json_lists, karpathy, label_studio
from lib.datasets.formats.document import Annotations, Document, UnknownFormatError
from lib.datasets.formats.records import Columns

__all__ = ["Annotations", "Columns", "read_document"]

Reader = Callable[[Document], Annotations | None]

# The first reader that recognises the content is used.
_READERS = [coco, karpathy, label_studio, flickr_tokens]
_TABLE_READERS = [json_lists, delimited]  # these use dataset.local.columns

_NAMES = "COCO or Karpathy JSON, CSV or TSV, JSON Lines, a JSON list, Parquet, Flickr token files"


def read_document(document: Document, columns: Columns | None = None) -> Annotations:
    """Read captions of any supported format; `columns` names the columns of a table. Raises UserError."""
    path = document.path
    readers: list[Reader] = [reader.read for reader in _READERS]
    readers += [partial(reader.read, columns=columns) for reader in _TABLE_READERS]
    for read in readers:
        with readable_errors(path):  # malformed content raises many kinds of error
            annotations = read(document)
        if annotations is not None:
            if columns and read in readers[: len(_READERS)]:
                problem = f"{path} is not a table, but {annotations.format}"
                raise UserError(f"dataset.local.columns={dict(columns)}: {problem}. Set the columns to null.")
            annotations.notes += document.notes
            return annotations
    content = None if document.is_parquet else document.json
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        raise UnknownFormatError(f"{path} has no captions: it lists images only. Use the file that has the captions.")
    hint = "" if content is not None or document.is_parquet else delimited.describe_header(document)
    raise UnknownFormatError(f"{path} is of no known caption format. Use {_NAMES}; see docs/datasets.md.{hint}")
