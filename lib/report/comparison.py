"""Two runs that differ in one thing, side by side: a table of their scores and a plot of their learning curves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.core.errors import readable_errors
from lib.report.figures import save_png
from lib.report.plots import compared_curves

_SCORES, _CURVES, _PICTURE = "scores.json", "curves.csv", "curves.png"


@dataclass(frozen=True)
class Comparison:
    """What is shown of two runs: by each run's name, `scores` on the test split, and `curves` by epoch."""

    title: str
    summary: str
    scores: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, pd.DataFrame]


def write_comparison(
    folder: Path,
    title: str,
    summary: str,
    scores: Mapping[str, Mapping[str, float]],
    curves: Mapping[str, pd.DataFrame],
) -> list[Path]:
    """Writes scores.json, curves.csv, curves.png and README.md, which shows table and plot; returns their paths.

    `curves` has, for each run, at least the columns epoch, val_loss, val_bleu_4 and val_cider_d.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in (_SCORES, _CURVES, _PICTURE, "README.md")]
    content = {"title": title, "summary": summary, "scores": scores}
    paths[0].write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    pd.concat(curves, names=["run"]).reset_index("run").to_csv(paths[1], index=False, lineterminator="\n")
    save_png(compared_curves(curves), paths[2], columns=3)
    paths[3].write_text(f"# {title}\n\n{summary}\n\n{table(scores)}\n\n![learning curves]({_PICTURE})\n", "utf-8")
    return paths


def read_comparisons(folder: Path) -> list[Comparison]:
    """Those that lie in folders of `folder`, in the order of their names."""
    return [_read(path.parent) for path in sorted(folder.glob(f"*/{_SCORES}"))]


def _read(folder: Path) -> Comparison:
    with readable_errors(folder / _CURVES):
        curves = dict(list(pd.read_csv(folder / _CURVES).groupby("run", sort=False)))
    with readable_errors(folder / _SCORES):
        return Comparison(**json.loads((folder / _SCORES).read_text("utf-8")), curves=curves)


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: a row for each run, a column for each score."""
    names = columns(scores)
    rows = [["", *names], ["---", *["---:"] * len(names)]]
    rows += [[run, *(f"{each[name]:.3f}" for name in names)] for run, each in scores.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def columns(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The scores that all runs have, in the first one's order."""
    first, *others = scores.values()
    return [name for name in first if all(name in other for other in others)]
