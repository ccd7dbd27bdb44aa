"""Compare runs that differ in one setting: a table of their scores and a plot of their learning curves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib.core.errors import readable_errors
from lib.report.figures import save_png
from lib.report.plots import compared_curves


@dataclass(frozen=True)
class Comparison:
    """The `scores` on the test split and the learning `curves` of some runs. The keys are the names of the runs."""

    title: str
    summary: str
    scores: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, pd.DataFrame]  # with the columns epoch, val_loss, val_bleu_4, val_cider_d, and others


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write scores.json, curves.csv, curves.png, and README.md with the table and the plot."""
    title, summary, scores = comparison.title, comparison.summary, comparison.scores
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": title, "summary": summary, "scores": scores}
    (folder / "scores.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    curves = pd.concat(comparison.curves, names=["run"]).reset_index("run")
    curves.to_csv(folder / "curves.csv", index=False, lineterminator="\n")
    save_png(compared_curves(comparison.curves), folder / "curves.png", columns=3)
    text = f"# {title}\n\n{summary}\n\n{table(scores)}\n\n![learning curves](curves.png)\n"
    (folder / "README.md").write_text(text, "utf-8")


def read_comparisons(folder: Path) -> list[Comparison]:
    """Read the comparisons in the subfolders of `folder`, sorted by subfolder name."""
    comparisons = []
    for path in sorted(folder.glob("*/scores.json")):
        with readable_errors(path.with_name("curves.csv")):
            curves = dict(list(pd.read_csv(path.with_name("curves.csv")).groupby("run", sort=False)))
        with readable_errors(path):
            comparisons.append(Comparison(**json.loads(path.read_text("utf-8")), curves=curves))
    return comparisons


def shared_scores(scores: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return a table with one row per run and one column per score. It has only the scores that all runs have."""
    return pd.DataFrame.from_dict(scores, orient="index").dropna(axis="columns")


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of `shared_scores` in Markdown."""
    runs = shared_scores(scores)
    rows = [["", *runs], ["---", *["---:"] * runs.shape[1]]]
    rows += [[run, *(f"{value:.3f}" for value in values)] for run, *values in runs.itertuples()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
