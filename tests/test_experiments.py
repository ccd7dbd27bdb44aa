"""Experiments: a change runs what depends on it, going back runs nothing, and any two runs can be compared."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands import command, commit, outputs, stages_run

pytestmark = pytest.mark.slow

LEARNING = ["train", "finetune", "generate", "evaluate", "report"]
# One on top of the other: each changes these params, and so runs these stages.
CHANGES: dict[str, tuple[dict[str, object], list[str]]] = {
    "decoding": ({"generate.min_length": 3}, ["generate", "evaluate", "report"]),
    "model": ({"model.hidden": 24}, ["gradients", *LEARNING]),
    "vocabulary": ({"vocabulary.min_count": 3}, ["captions", "gradients", *LEARNING]),
    "features": ({"features.kind": "pooled", "model.attention": "none"}, ["features", *LEARNING]),
}


FOLDERS = ["data/backbone", "data/features", "data/decoder"]


def settings(changes: dict[str, object]) -> list[str]:
    return [word for name, value in changes.items() for word in ("-S", f"{name}={value}")]


def told(folder: Path, *words: str) -> dict:
    """What a command of DVC's prints as JSON, which is one line."""
    return json.loads(command(folder, "dvc", *words, "--json").split("\n")[0])


def assert_plots_are_compared(folder: Path, *revisions: str) -> None:
    shutil.rmtree(folder / "dvc_plots", ignore_errors=True)
    command(folder, "dvc", "plots", "diff", *revisions)
    page = (folder / "dvc_plots/index.html").read_text()
    for revision in revisions:
        assert f'"{revision}"' in page, revision


def noted(folder: Path) -> dict[str, str]:
    """The md5 that DVC noted of each output that the model is made of."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    made_of = [out for name in ("captions", "backbone", "features", "train") for out in stages[name]["outs"]]
    return {out["path"]: out["md5"] for out in made_of if out["path"].startswith("data/")}


def test_a_change_runs_what_depends_on_it_and_going_back_runs_nothing(clone):
    before, made = outputs(clone), {}
    for name, (changes, stages) in CHANGES.items():
        output = command(clone, "dvc", "exp", "run", "--name", name, *settings(changes))
        assert sorted(stages_run(output)) == sorted(stages), name
        inputs = json.loads((clone / "data/model/provenance.json").read_text())["inputs"]
        assert inputs.items() <= noted(clone).items()
        assert inputs.keys() == {*(f"data/captions/{table}.parquet" for table in ("images", "captions")), *FOLDERS}
        made[name] = outputs(clone)
    assert len({tuple(each.items()) for each in (before, *made.values())}) == 1 + len(CHANGES)
    changed = {param for changes, _ in CHANGES.values() for param in changes}
    assert told(clone, "params", "diff")["params.yaml"].keys() == changed
    assert "cider_d" in told(clone, "metrics", "diff", "--all")["metrics/scores.json"]
    metrics = told(clone, "metrics", "show")
    assert {"bleu_4", "truth"} <= metrics[""]["data"]["metrics/scores.json"]["data"].keys()

    for name in ("model", "decoding"):
        command(clone, "dvc", "exp", "apply", name)
        assert stages_run(command(clone, "dvc", "repro")) == []
        assert outputs(clone) == made[name]

    # Params alone go back, and dvc.lock stays as it is: now DVC looks up what it once ran.
    command(clone, "git", "checkout", "-q", "HEAD", "--", "params.yaml")
    output = command(clone, "dvc", "repro")
    assert stages_run(output) == []
    assert "is cached - skipping run" in output
    assert outputs(clone) == before
    assert command(clone, "git", "status", "--porcelain") == ""


def test_runs_in_another_folder_keep_their_work_where_they_are_told(clone, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTION_SCRATCH", str(tmp_path / "scratch"))
    for number, how in enumerate([["--temp"], ["--queue"]], start=1):
        command(clone, "dvc", "exp", "run", *how, "-S", f"train.seed={10 + number}")
        if how == ["--queue"]:
            command(clone, "dvc", "exp", "run", "--run-all")
        assert len(list((tmp_path / "scratch/train").glob("*/checkpoint.pt"))) == number


def test_a_grid_is_run_from_a_queue_and_any_two_runs_are_compared(clone):
    before = outputs(clone)
    grid = settings({"generate.beam_size": "1,2", "generate.min_length": "4,5"})
    command(clone, "dvc", "exp", "run", "--queue", *grid)
    command(clone, "dvc", "exp", "run", "--run-all")
    assert outputs(clone) == before

    found = {}
    for experiment in told(clone, "exp", "show")[1]["experiments"]:
        (revision,) = experiment["revs"]
        generate = revision["data"]["params"]["params.yaml"]["data"]["generate"]
        assert {"bleu_4", "truth"} <= revision["data"]["metrics"]["metrics/scores.json"]["data"].keys()
        found[generate["beam_size"], generate["min_length"]] = experiment["name"]
    assert found.keys() >= {(1, 4), (1, 5), (2, 4), (2, 5)}

    one, other = found[1, 4], found[2, 5]
    changed = {
        "generate.beam_size": {"old": 1, "new": 2, "diff": 1},
        "generate.min_length": {"old": 4, "new": 5, "diff": 1},
    }
    assert told(clone, "params", "diff", one, other) == {"params.yaml": changed}
    scores = told(clone, "metrics", "diff", one, other)
    assert "cider_d" in scores["metrics/scores.json"]
    assert told(clone, "exp", "diff", one, other) == {"params": {"params.yaml": changed}, "metrics": scores}
    assert_plots_are_compared(clone, one, other)

    # What was worth keeping becomes a commit, and commits are compared as experiments are.
    for name in (one, other):
        command(clone, "dvc", "exp", "apply", name)
        commit(clone, name)
    assert told(clone, "params", "diff", "HEAD~1", "HEAD") == {"params.yaml": changed}
    assert told(clone, "metrics", "diff", "HEAD~1", "HEAD") == scores
    assert told(clone, "exp", "diff", "HEAD~1", "HEAD") == {"params": {"params.yaml": changed}, "metrics": scores}
    assert_plots_are_compared(clone, "HEAD~1", "HEAD")
