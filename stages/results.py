"""What stages leave in metrics/ as JSON: scores, and captions in COCO's results format, which others read."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lib.reading import intact
from lib.text.tokenizer import tokenize
from stages.running import METRICS


def read_json(name: str) -> Any:
    """A file of metrics/. Raises UserError where it is missing or damaged."""
    with intact(METRICS / name):
        return json.loads((METRICS / name).read_text("utf-8"))


def tokens_of(results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    """The tokens of each caption, by image id: tokenised anew, as coco-caption does it."""
    return {row["image_id"]: tokenize(row["caption"]) for row in results}
