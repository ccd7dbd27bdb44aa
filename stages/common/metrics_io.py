"""What stages leave in metrics/ for others to read: scores, captions in COCO's results format, learning curves."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from lib.core.errors import intact
from lib.text.tokenizer import tokenize
from stages.common.entrypoint import METRICS


def read_json(name: str) -> Any:
    """A file of metrics/. Raises UserError where it is missing or damaged."""
    with intact(METRICS / name):
        return json.loads((METRICS / name).read_text("utf-8"))


def read_csv(name: str) -> pd.DataFrame:
    """A table of metrics/. Raises UserError where it is missing or damaged."""
    with intact(METRICS / name):
        return pd.read_csv(METRICS / name)


def tokens_of(results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    """The tokens of each caption, by image id: tokenised anew, as coco-caption does it."""
    return {row["image_id"]: tokenize(row["caption"]) for row in results}
