"""Test whether one run scores higher than another, by a paired bootstrap: `make diff A=... B=...`.

A run is a Git revision or an experiment, read from DVC's cache; `workspace`; or the folder of another project.
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
        raise UserError("make diff needs two runs, A=... and B=...: a Git revision, experiment, folder or workspace")
    a, b = sys.argv[1:]
    tokenizer = _tokenizer(a)
    if _tokenizer(b) != tokenizer:
        raise UserError(f"{a} and {b} differ in the section text of {PARAMS_FILE}: their scores are not comparable")
    references, captions_a, true_a = _load(a, tokenizer)
    references_b, captions_b, true_b = _load(b, tokenizer)
    if references != references_b or captions_a.keys() != captions_b.keys():
        raise UserError(f"{a} and {b} have different test images or reference captions: use runs on the same data set")
    measures_a = measure(references, captions_a)
    measures_b = measure(references, {image_id: captions_b[image_id] for image_id in captions_a})
    rows = differences(measures_a, measures_b)
    if true_a is not None and true_b is not None:
        interval = mean_interval((true_b.astype(float) - true_a.astype(float)).to_numpy())
        rows["truth"] = Difference(true_a.mean(), true_b.mean(), interval)
    print(
        f"{difference_table(a, b, rows)}\n\n{len(captions_a)} images; a difference is real if its interval excludes 0"
    )


def _tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a run. Runs of earlier versions have ptb."""
    text = _read(name, PARAMS_FILE, yaml.safe_load).get("text")
    return Tokenizer(text["tokenizer"], text["lowercase"]) if text else PTB


def _load(name: str, tokenizer: Tokenizer) -> tuple[dict[int, list[list[str]]], dict[int, list[str]], pd.Series | None]:
    """Return by image id the tokens of a run's references and captions and, if they were judged, which are true."""
    captions = _read(name, METRICS / "captions.json", lambda file: tokenizer.scoring_results(json.load(file)))
    table = _read(name, CAPTION_TABLE, lambda file: pd.read_parquet(file, columns=["image_id", "caption"]))
    judged = _read(name, METRICS / "per_image.parquet", lambda file: pd.read_parquet(file).set_index("image_id"))
    table = table[table["image_id"].isin(captions.keys())]
    references = table["caption"].map(tokenizer.scoring_tokens).groupby(table["image_id"]).agg(list).to_dict()
    return references, captions, judged.get("true")


def _read(name: str, path: Path, parse: Callable[[io.BytesIO], Any]) -> Any:
    """Parse a file of a run. Errors name it as Git does, revision:path."""
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
