"""Flickr token files: lines of a file name, #, a number, a tab and a caption (Hodosh et al. 2013)."""

import re
import reprlib
from typing import Any

from lib.core.errors import UserError
from lib.datasets.formats.document import Annotations, Document
from lib.datasets.formats.records import tables

# Flickr8k-CN writes name.jpg#zhc#0, and a blank instead of the tab.
_LINE = re.compile(r"([^\t]*\.\w{2,5}(?:\.\d)?|[^\t#]+(?=#\w+\t))#(?:\w+#)?(?:\w*)[ \t]+(.*)")


def read(document: Document) -> Annotations | None:
    if document.is_parquet or document.json is not None:
        return None
    lines = [(number, line) for number, line in enumerate(document.lines, 1) if line.strip()]
    if not lines or not _LINE.fullmatch(lines[0][1]):
        return None
    images: dict[Any, tuple[str, str | None]] = {}
    captions = []
    for number, line in lines:
        if not (match := _LINE.fullmatch(line)):
            form = "the form must be FILE#NUMBER, a tab, and the caption"
            raise UserError(f"{document.path}, line {number}: {reprlib.repr(line)}: {form}. Correct this line.")
        images[match[1]] = match[1], None
        captions.append((match[1], match[2].strip()))
    return tables(str(document.path), "Flickr token file", images, captions, [])
