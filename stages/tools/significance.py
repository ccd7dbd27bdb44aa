"""diff: does one run score higher than another, or is it chance? `make diff A=... B=...` tells by a paired bootstrap.

Not a stage of the DAG. A run is a Git revision or an experiment, read from DVC's cache; `workspace`; or the folder of
another copy of the project. Both are tokenised and scored here, by the same code; which captions of `scenes` are true,
evaluate has told.
"""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException

from lib.core.errors import UserError, readable_errors
from lib.evaluation.intervals import difference_intervals, mean_interval
from lib.scoring import corpus_scores, measure
from lib.text.tokenizer import tokenize, tokenize_results
from stages.common.entrypoint import run
from stages.common.paths import CAPTIONS, METRICS

_RESULTS, _REFERENCES = METRICS / "captions.json", CAPTIONS / "captions.parquet"
_EACH = METRICS / "per_image.parquet"

Tokens = list[str]


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("two runs are needed, each a Git revision, an experiment, a folder or workspace: A=... B=...")
    a, b = sys.argv[1:]
    (references, captions_of_a), (others, captions_of_b) = _load(a), _load(b)
    if captions_of_a.keys() != captions_of_b.keys():
        shared = len(captions_of_a.keys() & captions_of_b.keys())
        raise UserError(
            f"{a} captions {len(captions_of_a)} images and {b} {len(captions_of_b)}, {shared} of them the same: "
            "only runs on the same images can be compared"
        )
    if references != others:
        raise UserError(f"{a} and {b} have different reference captions of the same images: another data set?")
    captions_of_b = {image_id: captions_of_b[image_id] for image_id in captions_of_a}
    rows = _rows(measure(references, captions_of_a), measure(references, captions_of_b))
    true_a, true_b = _truth(a), _truth(b)
    if true_a is not None and true_b is not None:
        difference = mean_interval((true_b - true_a).to_numpy())
        rows["truth"] = _row(true_a.mean(), true_b.mean(), difference)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[a, b, "difference", "95% interval", "real"])
    print(f"{table.to_string()}\n\n{len(captions_of_a)} images; a difference is real where its interval is clear of 0")


def _load(name: str) -> tuple[dict[int, list[Tokens]], dict[int, Tokens]]:
    """The references and the captions of a run, by image id."""
    with _opened(name, _RESULTS) as file:
        captions = tokenize_results(json.load(file))
    with _opened(name, _REFERENCES) as file:
        table = pd.read_parquet(file, columns=["image_id", "caption"])
    table = table[table["image_id"].isin(captions.keys())]
    return table["caption"].map(tokenize).groupby(table["image_id"]).agg(list).to_dict(), captions


def _truth(name: str) -> pd.Series | None:
    """By image id, 1 for each caption of a run that is true and else 0; None where none were judged."""
    with _opened(name, _EACH) as file:
        true = pd.read_parquet(file).set_index("image_id").get("true")
    return None if true is None else true.astype(float)


@contextmanager
def _opened(name: str, path: Path) -> Iterator[io.BytesIO]:
    """A file of a run, to be parsed; what cannot be is told by the name that Git gives it, revision:path."""
    content = _read(name, path)
    with readable_errors(Path(f"{name}:{path}")):
        yield io.BytesIO(content)


def _read(name: str, path: Path) -> bytes:
    """The bytes of a file of a run."""
    folder = Path() if name == "workspace" else Path(name)
    try:
        if name == "workspace" or (folder / METRICS).is_dir():
            return (folder / path).read_bytes()
        return DVCFileSystem(rev=name).read_bytes(path.as_posix())
    except FileNotFoundError as error:
        raise UserError(f"{name} has no {path}, here or in DVC's cache: dvc pull it, or run it again") from error
    except DvcException as error:
        raise UserError(f"{name}: {error}; nor is it an experiment (dvc exp list -A) or a run's folder") from error


def _rows(measures_a: np.ndarray, measures_b: np.ndarray) -> dict[str, list[str]]:
    scores_a, scores_b = corpus_scores(measures_a), corpus_scores(measures_b)
    return {
        metric: _row(scores_a[metric], scores_b[metric], difference)
        for metric, difference in difference_intervals(measures_b, measures_a).items()
    }


def _row(score_a: float, score_b: float, difference: tuple[float, float]) -> list[str]:
    low, high = difference
    return [
        f"{score_a:.4f}",
        f"{score_b:.4f}",
        f"{score_b - score_a:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        "yes" if low > 0 or high < 0 else "may be chance",
    ]


if __name__ == "__main__":
    run(main)
