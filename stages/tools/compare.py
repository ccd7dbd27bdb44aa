"""compare: trains two models that differ in one thing, as DVC experiments, and puts them side by side: `make compare`.

Not a stage of the DAG, but two runs of it, each in a folder of DVC's own with what Git tracks, uncommitted changes
included: the workspace's params, data and metrics stay as they are.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lib.core.errors import UserError
from lib.core.files import link_into
from lib.report.comparison import table, write_comparison
from stages.common.entrypoint import run
from stages.common.paths import METRICS, SCRATCH
from stages.params import PARAMS_FILE

# What can be compared: two runs, and the params that make them different.
_RUNS = {
    "cell": {"RNN": {"model.cell": "rnn"}, "LSTM": {"model.cell": "lstm"}},
    "implementation": {"scratch": {"model.implementation": "scratch"}, "torch": {"model.implementation": "torch"}},
    "features": {
        "pooled": {"features.kind": "pooled", "model.attention": "none"},
        "grid": {"features.kind": "grid", "model.attention": "additive"},
    },
}
_MADE = (PARAMS_FILE.name, "dvc.lock", f"{METRICS}/")  # what two experiments may differ in


def main() -> None:
    what, *settings = sys.argv[1:]
    if what not in _RUNS:
        *first, last = _RUNS
        raise UserError(f"WHAT={what}: should be {', '.join(first)} or {last}")
    runs = _RUNS[what]
    unknown = _git("ls-files", "--others", "--exclude-standard", "--", "lib", "stages").splitlines()
    if unknown:
        print(
            f"note: not in Git, and so not in the experiments: {', '.join(unknown)} (git add takes them along)",
            flush=True,
        )
    experiments = {
        name: _experiment(f"compare-{what}-{name.lower()}", settings, params) for name, params in runs.items()
    }
    _check_all_else_is_equal(list(experiments.values()), {key for params in runs.values() for key in params})

    def results(path: Path) -> dict[str, str]:
        return {name: _git("show", f"{revision}:{path.as_posix()}") for name, revision in experiments.items()}

    scores = {name: json.loads(text) for name, text in results(METRICS / "scores.json").items()}
    curves = {name: pd.read_csv(io.StringIO(text)) for name, text in results(METRICS / "train/curves.csv").items()}
    params = yaml.safe_load(next(iter(results(PARAMS_FILE).values())))
    differing = " against ".join(", ".join(f"{key}={value}" for key, value in each.items()) for each in runs.values())
    title = " against ".join(runs)
    unfinished = SCRATCH / "compare" / what
    files = write_comparison(
        unfinished,
        title[0].upper() + title[1:],
        f"On {params['dataset']['name']}, {params['train']['epochs']} epochs each: {differing}; all else equal.",
        {
            name: {key: value for key, value in each.items() if isinstance(value, float)}
            for name, each in scores.items()
        },
        curves,
    )
    link_into(files, METRICS / "compare" / what)
    shutil.rmtree(unfinished)
    print(
        f"\n{table(scores)}\n\n{METRICS / 'compare' / what} has it with the learning curves; "
        f"dvc repro shows it in {METRICS / 'report/index.html'}"
    )


def _experiment(name: str, settings: list[str], params: dict[str, str]) -> str:
    """Runs the DAG as an experiment of this name, in place of an earlier one; returns its commit."""
    head = _git("rev-parse", "HEAD")
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    earlier = _git("for-each-ref", "--format=%(objectname)", reference)
    if earlier:  # DVC would refuse the name; with --force it would also run every stage anew
        _git("update-ref", "-d", reference)
    changes = [word for key, value in params.items() for word in ("-S", f"{key}={value}")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CAPTION_SCRATCH": str(SCRATCH.resolve())}
    # Ctrl-C is DVC's to handle: it waits for the stage and clears up. It gets its own default handler back.
    signal.signal(signal.SIGINT, lambda *_: None)
    code = subprocess.call(
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *settings, *changes],
        env=environment,
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if code == 0:
        return _git("rev-parse", "--verify", reference)
    if earlier:
        _git("update-ref", reference, earlier)
    raise UserError(
        f"{name} failed, for the reason above; {METRICS / 'compare'} is as it was (it ran in another folder, "
        "with what Git tracks: images, captions and weights of your own are found there by their full path)"
    )


def _check_all_else_is_equal(revisions: list[str], compared: set[str]) -> None:
    """Raises UserError where somebody changed code or other params between the two runs."""
    changed = [path for path in _git("diff", "--name-only", *revisions).splitlines() if not path.startswith(_MADE)]
    one, other = (_leaves(yaml.safe_load(_git("show", f"{revision}:{PARAMS_FILE}"))) for revision in revisions)
    changed += [key for key in {**one, **other} if key not in compared and one.get(key) != other.get(key)]
    if changed:
        raise UserError(f"{', '.join(changed)} changed between the two runs, which thus tell nothing: run it again")


def _leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in section.items():
        found.update(_leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"git {words[0]}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout.strip()


if __name__ == "__main__":
    run(main)
