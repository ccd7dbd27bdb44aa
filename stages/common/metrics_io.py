"""Read the files of metrics/."""

import json
from typing import Any

import pandas as pd

from lib.core.errors import readable_errors
from stages.common.paths import METRICS


def read_json(name: str) -> Any:
    """Read a JSON file of metrics/. Raises UserError if it is missing or damaged."""
    with readable_errors(METRICS / name):
        return json.loads((METRICS / name).read_text("utf-8"))


def read_csv(name: str) -> pd.DataFrame:
    """Read a table of metrics/. Raises UserError if it is missing or damaged."""
    with readable_errors(METRICS / name):
        return pd.read_csv(METRICS / name)
