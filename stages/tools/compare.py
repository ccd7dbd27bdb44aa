"""Train two models that differ in one setting, as DVC experiments, and compare them: `make compare`.

The workspace does not change. DVC runs each experiment in a temporary folder with all files that Git tracks, including
uncommitted changes.
"""

import argparse
import io
import json
import signal
import subprocess
import sys
from typing import Any

import dvc.api
import pandas as pd
import yaml

from lib.core.errors import UserError
from lib.report.comparison import Comparison, table, write_comparison
from stages.common.entrypoint import run
from stages.common.paths import METRICS, SCRATCH, user_path
from stages.tools.experiment import environment, recipe_overrides

# For each value of WHAT: the names of two runs, and the params that differ between them.
_RUNS = {
    "cell": {"RNN": ["model.cell=rnn"], "LSTM": ["model.cell=lstm"]},
    "implementation": {"scratch": ["model.implementation=scratch"], "torch": ["model.implementation=torch"]},
    "features": {
        "pooled": ["features.kind=pooled", "model.attention=none"],
        "grid": ["features.kind=grid", "model.attention=additive"],
    },
}


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
    inputs, scores, curves = [], {}, {}
    for name, params in _RUNS[what].items():
        experiment = f"compare-{what}-{name.lower()}"
        _run_experiment(experiment, [*settings, *(f"--set-param={param}" for param in params)])
        inputs.append(_inputs(experiment))
        scores[name] = json.loads(dvc.api.read(f"{METRICS}/scores.json", rev=experiment))
        curves[name] = pd.read_csv(io.StringIO(dvc.api.read(f"{METRICS}/train/curves.csv", rev=experiment)))
    one, other = inputs
    varied = {param.partition("=")[0] for params in _RUNS[what].values() for param in params}
    if changed := [key for key in {**one, **other} if key not in varied and one.get(key) != other.get(key)]:
        problem = "changed between the two runs, so they are not comparable"
        raise UserError(f"{', '.join(changed)}: {problem}. Run make compare again.")

    title, differing = " against ".join(scores), " against ".join(map(", ".join, _RUNS[what].values()))
    summary = f"On {one['dataset.name']}, {one['train.epochs']} epochs each: {differing}. All other params are equal."
    folder = METRICS / "compare" / what
    write_comparison(folder, Comparison(title[0].upper() + title[1:], summary, scores, curves))
    print(f"\n{table(scores)}\n\nThe table and the learning curves are in {folder}. dvc repro adds them to the report.")


def _run_experiment(name: str, settings: list[str]) -> None:
    """Run the DAG as the experiment `name`. Replace an earlier experiment of this name only if the run succeeds."""
    variables = {**environment(), "CAPTION_SCRATCH": str(SCRATCH.resolve())}
    for command in (["run", "--temp", "--name", f"{name}-new", *settings], ["rename", "--force", f"{name}-new", name]):
        if subprocess.call([sys.executable, "-m", "dvc", "exp", *command], env=variables):
            raise UserError(
                f"{name} failed. See the error above. {METRICS / 'compare'} is unchanged. An experiment has only the "
                "files that Git tracks: run git add on new code, and use full paths for your own images and captions."
            )


def _inputs(experiment: str) -> dict[str, Any]:
    """Return the value of each param, and the md5 of each file and folder of code."""
    (params,) = pd.json_normalize(dvc.api.params_show(rev=experiment)).to_dict("records")
    lock = yaml.safe_load(dvc.api.read("dvc.lock", rev=experiment))
    deps = [dep for stage in lock["stages"].values() for dep in stage["deps"]]
    return params | {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith(("lib/", "stages/"))}


if __name__ == "__main__":
    run(main)
