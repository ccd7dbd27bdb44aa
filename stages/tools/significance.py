"""Test whether one run scores higher than another, by a paired bootstrap: `make diff A=... B=...`.

A run is a Git revision, an experiment, `workspace`, or the folder of another project. The first two are read from DVC's
cache.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException

from lib.core.errors import UserError, readable_errors
from lib.evaluation.intervals import difference_intervals, mean_interval
from lib.scoring import corpus_scores, measure
from lib.text.tokenizer import tokenize, tokenize_results
from stages.common.entrypoint import run
from stages.common.paths import CAPTION_TABLE, METRICS


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("make diff needs two runs, A=... and B=... (each a revision, experiment, folder or workspace)")
    a, b = sys.argv[1:]
    references, captions_a, true_a = _load(a)
    references_b, captions_b, true_b = _load(b)
    if references != references_b or captions_a.keys() != captions_b.keys():
        fix = "Use runs on the same data set."
        raise UserError(f"{a} and {b} have different test images or reference captions. {fix}")
    measures_a = measure(references, captions_a)
    measures_b = measure(references, {image_id: captions_b[image_id] for image_id in captions_a})
    scores_a, scores_b = corpus_scores(measures_a), corpus_scores(measures_b)
    intervals = difference_intervals(measures_b, measures_a)
    if true_a is not None and true_b is not None:
        scores_a["truth"], scores_b["truth"] = true_a.mean(), true_b.mean()
        intervals["truth"] = mean_interval((true_b.astype(float) - true_a.astype(float)).to_numpy())
    rows = []
    for metric, (low, high) in intervals.items():
        score_a, score_b = scores_a[metric], scores_b[metric]
        real = "yes" if low > 0 or high < 0 else "may be chance"
        difference = [f"{score_b - score_a:+.4f}", f"{low:+.4f} to {high:+.4f}", real]
        rows.append([f"{score_a:.4f}", f"{score_b:.4f}", *difference])
    table = pd.DataFrame(rows, list(intervals), [a, b, "difference", "95% interval", "real"])
    print(f"{table.to_string()}\n\n{len(captions_a)} images; a difference is real if its interval excludes 0")


def _load(name: str) -> tuple[dict[int, list[list[str]]], dict[int, list[str]], pd.Series | None]:
    """Return a run's reference tokens, caption tokens and, if judged, whether each caption is true, by image id."""
    captions = _read(name, METRICS / "captions.json", lambda file: tokenize_results(json.load(file)))
    table = _read(name, CAPTION_TABLE, lambda file: pd.read_parquet(file, columns=["image_id", "caption"]))
    judged = _read(name, METRICS / "per_image.parquet", lambda file: pd.read_parquet(file).set_index("image_id"))
    table = table[table["image_id"].isin(captions.keys())]
    references = table["caption"].map(tokenize).groupby(table["image_id"]).agg(list).to_dict()
    return references, captions, judged.get("true")


def _read(name: str, path: Path, parse: Callable[[io.BytesIO], Any]) -> Any:
    """Parse a file of a run. Errors name the file as Git does, revision:path."""
    folder = Path() if name == "workspace" else Path(name)
    local = (folder / METRICS).is_dir()
    try:
        content = (folder / path).read_bytes() if local else DVCFileSystem(rev=name).read_bytes(path.as_posix())
    except (FileNotFoundError, DvcException) as error:
        fix = "Give a Git revision, an experiment, a folder or workspace; run dvc pull if DVC's cache lacks the file"
        raise UserError(f"{name}: cannot read {path}: {error}. {fix}") from error
    with readable_errors(Path(f"{name}:{path}")):
        return parse(io.BytesIO(content))


if __name__ == "__main__":
    run(main)
