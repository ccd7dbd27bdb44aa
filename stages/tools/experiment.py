"""Run the pipeline with a recipe, as a DVC experiment: `make coco2014`, `coco2017`, `flickr8k` and `local`.

    python -m stages.tools.experiment recipes/few.yaml -S dataset.name=flickr8k

A recipe is a YAML file with the params that it changes, nested as in params.yaml. The other arguments are those of
`dvc exp run`. Their -S overrides the recipe. The experiment gets the name of the data set and of the recipe, here
`flickr8k-few`, or `flickr8k-few-2` if that exists.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dvc.repo import Repo
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hydra.core.override_parser.types import Quote, QuotedString
from ruamel.yaml import YAML

from lib.core.errors import UserError
from stages.common.entrypoint import run
from stages.common.paths import user_path
from stages.params import PARAMS_FILE, Params, load_yaml, validate

RECIPES = Path("recipes")


def main() -> None:
    recipe, *arguments = sys.argv[1:] or [""]
    parser = argparse.ArgumentParser(prog="dvc exp run", allow_abbrev=False, add_help=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    parser.add_argument("-n", "--name")
    parser.add_argument("--queue", action="store_true")
    options, _ = parser.parse_known_args(arguments)
    path = user_path(recipe)
    overrides = recipe_overrides(path)
    all_overrides = [*overrides, *to_path_overrides(options.set_param).get(str(PARAMS_FILE), [])]
    runs = _params_of_runs(all_overrides)
    _report_other_changes(all_overrides)
    if not options.name:
        data = dict.fromkeys(params.dataset.name for params in runs)
        arguments = ["--name", _new_name([*data, path.stem], len(runs), options.queue), *arguments]
    command = [sys.executable, "-m", "dvc", "exp", "run", *(f"--set-param={override}" for override in overrides)]
    sys.stderr.flush()
    os.execve(sys.executable, [*command, *arguments], environment())


def recipe_overrides(path: Path) -> list[str]:
    """Return the params of a recipe as values of `dvc exp run --set-param`.

    Raises UserError if the recipe is missing or malformed, or if params.yaml would not be valid with it.
    """
    if not path.is_file():
        found = ", ".join(map(str, sorted(RECIPES.glob("*.yaml"))))
        raise UserError(f"the recipe {path} is not a file. Set RECIPE to one of {found}, or to a file of your own.")
    recipe, params = load_yaml(path), load_yaml(PARAMS_FILE)
    if not recipe:
        raise UserError(f"{path} has no params. Write the params that the recipe changes, nested as in {PARAMS_FILE}.")
    validate(params, str(PARAMS_FILE))
    validate(_merged(params, recipe), str(path))
    return [f"{key}={_to_hydra(value)}" for key, value in _leaves(recipe)]


def environment() -> dict[str, str]:
    """Return the environment for DVC. Its stages run `python`, which must be the one that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _merged(params: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(params)
    for key, value in changes.items():
        old = params.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _leaves(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of each param, such as ("train.epochs", 3)."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _to_hydra(value: Any) -> str:
    """Return a value in the grammar of Hydra, by which DVC parses --set-param."""
    if isinstance(value, str):
        # ${name} would be replaced by the param `name`, unless an odd number of backslashes precedes it.
        return QuotedString(re.sub(r"(\\*)\$\{", r"\1\1\\${", value), Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_to_hydra, value))}]"
    return json.dumps(value)  # a number, true, false or null


def _params_of_runs(overrides: list[str]) -> list[Params]:
    """Return the params of each run. There are several if -S has values with commas, for a queue. Raises UserError."""
    with TemporaryDirectory() as folder:
        copy, runs = Path(folder) / PARAMS_FILE.name, []
        try:
            for run_overrides in get_hydra_sweeps({str(PARAMS_FILE): overrides}):
                shutil.copy(PARAMS_FILE, copy)
                apply_overrides(copy, run_overrides[str(PARAMS_FILE)])
                runs.append(validate(load_yaml(copy), "-S"))
        except UserError:
            raise
        except Exception as error:  # DVC, Hydra and OmegaConf each have their own errors
            problem = str(error.__cause__ or error).partition("\n")[0].rstrip(".")
            raise UserError(f"-S: {problem}. Use a key of {PARAMS_FILE}: -S train.epochs=3.") from error
    return runs


def _report_other_changes(overrides: list[str]) -> None:
    """Print the params that an earlier experiment or the user changed, and that this run does not set."""
    shown = subprocess.run(["git", "show", f"HEAD:./{PARAMS_FILE}"], capture_output=True, text=True, check=False)
    if shown.returncode:  # nothing is committed yet
        return
    committed = dict(_leaves(YAML(typ="safe").load(shown.stdout)))
    overridden = {override.partition("=")[0] for override in overrides}
    params = _leaves(load_yaml(PARAMS_FILE))
    others = [f"{key}={value}" for key, value in params if key not in overridden and committed.get(key, ...) != value]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        undo = f"To undo: git checkout HEAD -- {PARAMS_FILE}"
        print(f"note: uncommitted in {PARAMS_FILE}: {', '.join(others[:5])}{more}. {undo}", file=sys.stderr)


def _new_name(words: list[str], runs: int, queue: bool) -> str:
    """Return a name that no experiment, branch or tag has. DVC adds -1, -2, ... to it if there are several runs."""
    listing = ["git", "for-each-ref", "--format=%(refname)", "refs/exps", "refs/heads", "refs/tags"]
    refs = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.splitlines()
    taken = {ref.rpartition("/")[2] for ref in refs}
    if queue:
        with Repo() as repo:
            taken |= {task["name"] for task in repo.experiments.celery_queue.status()}
    name = re.sub(r"\W+", "-", "-".join(words)).strip("-")
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    made = (({each} if runs == 1 else {f"{each}-{run}" for run in range(1, runs + 1)}, each) for each in candidates)
    return next(candidate for names, candidate in made if not names & taken)


if __name__ == "__main__":
    run(main)
