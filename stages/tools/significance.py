"""Test whether one run scores higher than another, by a paired bootstrap: `make diff A=... B=...`.

A run is a Git revision, an experiment, `workspace`, or the folder of another project. Revisions and experiments are
read from DVC's cache.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException

from lib.core.errors import UserError, readable_errors
from lib.evaluation.intervals import mean_interval
from lib.evaluation.significance import Difference, difference_table, differences
from lib.scoring import measure
from lib.text.tokenizer import PTB, Tokenizer
from stages.common.entrypoint import run
from stages.common.paths import CAPTION_TABLE, METRICS
from stages.params import PARAMS_FILE


def main() -> None:
    if len(sys.argv) != 3:
        usage = "Use make diff A=RUN B=RUN. A run is a Git revision, an experiment, a folder or workspace."
        raise UserError(f"make diff needs two runs. {usage}")
    a, b = sys.argv[1:]
    tokenizer, references, captions_a, true_a = _load(a)
    tokenizer_b, references_b, captions_b, true_b = _load(b)
    if tokenizer != tokenizer_b:
        problem = f"{a} and {b} differ in the section `text` of {PARAMS_FILE}, so their scores are not comparable"
        raise UserError(f"{problem}. Use runs with the same tokenizer.")
    if references != references_b or captions_a.keys() != captions_b.keys():
        fix = "Use runs on the same data set."
        raise UserError(f"{a} and {b} have different test images or reference captions. {fix}")
    measures_a = measure(references, captions_a)
    measures_b = measure(references, {image_id: captions_b[image_id] for image_id in captions_a})
    rows = differences(measures_a, measures_b)
    if true_a is not None and true_b is not None:
        interval = mean_interval((true_b.astype(float) - true_a.astype(float)).to_numpy())
        rows["truth"] = Difference(true_a.mean(), true_b.mean(), interval)
    print(
        f"{difference_table(a, b, rows)}\n\n{len(captions_a)} images; a difference is real if its interval excludes 0"
    )


def _load(name: str) -> tuple[Tokenizer, dict[int, list[list[str]]], dict[int, list[str]], pd.Series | None]:
    """Return a run's tokenizer and, by image id, its tokenised references, captions, and their truth if judged."""
    texts = _read(
        name, METRICS / "captions.json", lambda file: [(r["image_id"], r["caption"]) for r in json.load(file)]
    )
    tokenizer = _read(name, PARAMS_FILE, _parse_tokenizer)
    captions = {image_id: tokenizer.scoring_tokens(text) for image_id, text in texts}
    table = _read(name, CAPTION_TABLE, lambda file: pd.read_parquet(file, columns=["image_id", "caption"]))
    judged = _read(name, METRICS / "per_image.parquet", lambda file: pd.read_parquet(file).set_index("image_id"))
    table = table[table["image_id"].isin(captions.keys())]
    references = table["caption"].map(tokenizer.scoring_tokens).groupby(table["image_id"]).agg(list).to_dict()
    return tokenizer, references, captions, judged.get("true")


def _parse_tokenizer(file: io.BytesIO) -> Tokenizer:
    """Return the tokenizer of a params.yaml. A file of an earlier version has no section `text`."""
    text = yaml.safe_load(file).get("text")
    return Tokenizer(text["tokenizer"], text["lowercase"]) if text else PTB


def _read(name: str, path: Path, parse: Callable[[io.BytesIO], Any]) -> Any:
    """Parse a file of a run. Errors name the file in the form revision:path, as Git does."""
    folder = Path() if name == "workspace" else Path(name)
    local = (folder / METRICS).is_dir()
    try:
        content = (folder / path).read_bytes() if local else DVCFileSystem(rev=name).read_bytes(path.as_posix())
    except (FileNotFoundError, DvcException) as error:
        fix = "Use a Git revision, an experiment, a folder or workspace. If DVC's cache lacks the file, run dvc pull."
        raise UserError(f"{name}: cannot read {path}: {error}. {fix}") from error
    with readable_errors(Path(f"{name}:{path}")):
        return parse(io.BytesIO(content))


if __name__ == "__main__":
    run(main)
