"""Captions in COCO's results format, as generate writes them and others score them."""

from collections.abc import Iterable, Mapping
from typing import Any

from lib.text.tokenizer import tokenize


def tokens_of(results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    """The tokens of each caption, by image id: tokenised anew, as coco-caption does it."""
    return {row["image_id"]: tokenize(row["caption"]) for row in results}
