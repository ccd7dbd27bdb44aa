"""Karpathy JSON (Karpathy & Fei-Fei 2015): images with split and sentences. RSICD, UCM and Sydney use it, too.

A sentence has `raw`, or only `tokens`. The image id is the first of `cocoid`, `imgid` and the file name that the file
has. `restval` is the part of COCO's val that papers train on.
"""

from typing import Any

from lib.core.errors import UserError
from lib.datasets.formats.coco import check_unique, field, rows_of
from lib.datasets.formats.document import Annotations, Document
from lib.datasets.formats.ids import parse_id
from lib.datasets.formats.records import caption_texts, check_text, parse_split, tables


def read(document: Document) -> Annotations | None:
    content = document.json
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not any(isinstance(row, dict) and "sentences" in row for row in rows):
        return None
    images: dict[Any, tuple[str, str | None]] = {}
    captions: list[tuple[Any, str]] = []
    source = str(document.path)
    rows = rows_of(content, "images", source)
    has_split = any(row.get("split") is not None for row in rows)
    keys = next((key for key in ("cocoid", "imgid") if any(row.get(key) is not None for row in rows)), None)
    image_ids = []
    for i, row in enumerate(rows):
        where = f"{source}: images[{i}]"
        name = field(row, ("filename", "file_name"), where)
        folder = row.get("filepath") or ""
        if not isinstance(name, str) or not isinstance(folder, str):
            problem = f"filename and filepath must be text; got {name!r:.80} and {folder!r:.80}"
            raise UserError(f"{where}: {problem}. Correct them.")
        name = check_text("/".join(filter(None, (folder, name))), where)
        image_id = name if keys is None else parse_id(field(row, ("cocoid", "imgid"), where), f"{where}[{keys!r}]")
        split = parse_split(row.get("split"), f"{where}['split']") if has_split else None
        image_ids.append(image_id)
        images[image_id] = name, split
        sentences = field(row, ("sentences",), where)
        if not isinstance(sentences, list):
            raise UserError(f"{where}['sentences'] must be a list; got {sentences!r:.80}. Correct it.")
        for j, sentence in enumerate(sentences):
            place = f"{where}['sentences'][{j}]"
            texts = caption_texts(sentence, f"{place}['raw']")
            captions += [(image_id, text) for text in texts or [""]]
    check_unique(image_ids, source)
    return tables(source, "Karpathy JSON", images, captions, [])
