"""Train models that differ in one setting, as DVC experiments, and compare them: `make compare`.

The workspace does not change. DVC runs each experiment in a temporary folder with all files that Git tracks, including
uncommitted changes.
"""

import argparse
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dvc.api
import pandas as pd
import yaml

from lib.app.decoder_cost import equal_size, measure_speeds, num_parameters
from lib.core.errors import UserError
from lib.core.tables import read_images, read_tokens
from lib.model.decoder import Decoder
from lib.model.saved import load_decoder
from lib.report.comparison import Comparison, table, write_comparison
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, CAPTION_TABLE, CAPTIONS, DECODER, METRICS, SCRATCH, user_path
from stages.tools.experiment import environment, recipe_overrides

# For each value of WHAT: the names of the runs, and the params that differ between them.
_RUNS = {
    "cell": {"RNN": ["model.cell=rnn"], "LSTM": ["model.cell=lstm"], "Transformer": ["model.cell=transformer"]},
    "implementation": {"scratch": ["model.implementation=scratch"], "torch": ["model.implementation=torch"]},
    "features": {
        "pooled": ["features.kind=pooled", "model.attention=none"],
        "grid": ["features.kind=grid", "model.attention=additive"],
    },
}
_REFERENCE = "LSTM"  # the other runs of `cell` get the hidden size with which they have as many parameters as this run
_TIMED_IMAGES = 1000  # train images whose captions are enough to measure the speed


@dataclass(frozen=True)
class _Run:
    """A finished experiment."""

    commit: str  # of the experiment
    params: list[str]  # the params that differ from the other runs, as KEY=VALUE
    inputs: Mapping[str, Any]
    scores: Mapping[str, float]
    curve: pd.DataFrame
    decoder: Decoder
    vocabulary: Vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare", allow_abbrev=False)
    parser.add_argument("what")
    parser.add_argument("--recipe", type=user_path)
    options, settings = parser.parse_known_args()
    what = options.what
    if what not in _RUNS:
        raise UserError(f"WHAT={what}: WHAT must be one of {', '.join(_RUNS)}")
    recipe = recipe_overrides(options.recipe) if options.recipe else []
    settings = [*(f"--set-param={override}" for override in recipe), *settings]
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C also reaches DVC, which stops the stage and cleans up
    finished: dict[str, _Run] = {}
    for name in sorted(_RUNS[what], key=_REFERENCE.__ne__):  # the reference first
        params = _RUNS[what][name]
        if _REFERENCE in finished:
            hidden = equal_size(finished[_REFERENCE].decoder.config, name.lower()).hidden_size
            params = [*params, f"model.hidden={hidden}"]
        finished[name] = _finished_run(f"compare-{what}-{name.lower()}", params, settings)
    runs = {name: finished[name] for name in _RUNS[what]}
    shared = _shared(runs.values())
    sizes = {name: num_parameters(run.decoder.config) for name, run in runs.items()}
    *names, last = runs
    title = f"{', '.join(names)} and {last}"
    summary = (
        f"On {shared['dataset.name']}, {shared['train.epochs']} epochs each: "
        f"{' against '.join(', '.join(run.params) for run in runs.values())}. All other params are equal. "
        f"Parameters: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}."
    )
    folder, scores = METRICS / "compare" / what, {name: run.scores for name, run in runs.items()}
    curves = {name: run.curve for name, run in runs.items()}
    write_comparison(folder, Comparison(title[0].upper() + title[1:], summary, scores, curves))
    print(f"\n{table(scores)}\n\nThe table and the learning curves are in {folder}. dvc repro adds them to the report.")
    print(f"\n{_costs(runs, sizes, shared)}")


def _finished_run(experiment: str, params: list[str], settings: list[str]) -> _Run:
    commit = _run_experiment(experiment, [*settings, *(f"--set-param={param}" for param in params)])
    scores = json.loads(dvc.api.read(f"{METRICS}/scores.json", rev=commit))
    curve = pd.read_csv(io.StringIO(dvc.api.read(f"{METRICS}/train/curves.csv", rev=commit)))
    return _Run(commit, params, _inputs(commit), scores, curve, *_load_decoder(commit))


def _run_experiment(name: str, settings: list[str]) -> str:
    """Run the DAG as the experiment `name`. Return its commit.

    An earlier experiment of this name is replaced only if the run succeeds.
    """

    def dvc_exp(*arguments: str) -> None:
        if subprocess.call([sys.executable, "-m", "dvc", "exp", *arguments], env=variables):
            raise UserError(
                f"{name} failed. See the error above. {METRICS / 'compare'} is unchanged. An experiment has only the "
                "files that Git tracks: run git add on new code, and use full paths for your own images and captions."
            )

    variables, new = {**environment(), "CAPTION_SCRATCH": str(SCRATCH.resolve())}, f"{name}-new"
    dvc_exp("run", "--temp", "--name", new, *settings)
    # If HEAD moved meanwhile, `name` may stand for an earlier experiment too. The commit is unique.
    commit: str = dvc.api.DVCFileSystem(rev=new).repo.get_rev()
    dvc_exp("rename", "--force", new, name)
    return commit


def _inputs(commit: str) -> dict[str, Any]:
    """Return the value of each param, and the md5 of each file and folder of code."""
    (params,) = pd.json_normalize(dvc.api.params_show(rev=commit)).to_dict("records")
    lock = yaml.safe_load(dvc.api.read("dvc.lock", rev=commit))
    deps = [dep for stage in lock["stages"].values() for dep in stage["deps"]]
    return params | {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith(("lib/", "stages/"))}


def _shared(runs: Iterable[_Run]) -> Mapping[str, Any]:
    """Return the inputs of the first run. Raises UserError if other runs differ in more than the params to compare."""
    varied = {param.partition("=")[0] for run in runs for param in run.params}
    first, *others = (run.inputs for run in runs)
    for other in others:
        if changed := [key for key in {**first, **other} if key not in varied and first.get(key) != other.get(key)]:
            problem = "changed between the runs, so they are not comparable"
            raise UserError(f"{', '.join(changed)}: {problem}. Run make compare again.")
    return first


def _load_decoder(commit: str) -> tuple[Decoder, Vocabulary]:
    with TemporaryDirectory() as folder:
        return load_decoder(_restore(commit, DECODER, Path(folder)))


def _costs(runs: Mapping[str, _Run], sizes: Mapping[str, int], params: Mapping[str, Any]) -> str:
    """Return a table in Markdown of what each decoder costs. It is only printed, because times differ between runs."""
    first, batch_size, beam_size = next(iter(runs.values())), params["train.batch_size"], params["generate.beam_size"]
    with TemporaryDirectory() as temporary:
        folder = _restore(first.commit, CAPTIONS, Path(temporary))
        image_ids = read_images(folder / ANNOTATED_IMAGES.name, "train")["image_id"]
        captions = list(read_tokens(folder / CAPTION_TABLE.name, image_ids).values())
    decoders = {name: run.decoder for name, run in runs.items()}
    speeds = measure_speeds(decoders, first.vocabulary, captions[:_TIMED_IMAGES], batch_size, beam_size)
    rows = ["| | parameters | seconds per epoch | captions per second |", "| --- | ---: | ---: | ---: |"]
    for name, speed in speeds.items():
        seconds = sum(map(len, captions)) / speed.training
        rows.append(f"| {name} | {sizes[name]:,} | {seconds:.1f} | {speed.decoding:.0f} |")
    parts = f"training steps without validation; beam search with {beam_size} beams, without the CNN"
    return "\n".join([*rows, "", f"Measured in turns on this machine: {parts}."])


def _restore(commit: str, path: Path, folder: Path) -> Path:
    """Copy an output folder of an experiment into `folder`. Return the path of the copy."""
    dvc.api.DVCFileSystem(rev=commit).get(path.as_posix(), str(folder / path.name), recursive=True)
    return folder / path.name


if __name__ == "__main__":
    run(main)
