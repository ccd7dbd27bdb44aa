"""Compare two systems on the same images by a paired bootstrap."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lib.evaluation.intervals import Interval, difference_intervals
from lib.scoring import corpus_scores


class Difference(NamedTuple):
    """The scores `a` and `b` of two systems, and the 95% interval of b - a."""

    a: float
    b: float
    interval: Interval

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.interval
        return low > 0 or high < 0


def differences(a: np.ndarray, b: np.ndarray) -> dict[str, Difference]:
    """Return the difference in each score. `a` and `b` are measures (I, 12) of two systems on the same images."""
    scores_a, scores_b = corpus_scores(a), corpus_scores(b)
    return {name: Difference(scores_a[name], scores_b[name], x) for name, x in difference_intervals(b, a).items()}


def difference_table(a: str, b: str, rows: Mapping[str, Difference]) -> str:
    """Return a text table of the differences between the systems with the names `a` and `b`."""
    cells = [["", a, b, "difference", "95% interval", "real"]]
    for metric, row in rows.items():
        low, high = row.interval
        real = "yes" if row.is_real else "may be chance"
        difference = [f"{row.b - row.a:+.4f}", f"{low:+.4f} to {high:+.4f}", real]
        cells.append([metric, f"{row.a:.4f}", f"{row.b:.4f}", *difference])
    return text_table(cells)


def text_table(rows: list[list[str]]) -> str:
    """Return rows of equal length as aligned text: the first column is left-aligned, the others right-aligned."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
