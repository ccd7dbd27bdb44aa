"""Experiments: a change runs the stages that depend on it, undoing it runs none, and any two runs can be compared."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.commands import command, commit, outputs, stages_run

pytestmark = pytest.mark.slow

LEARNING = ["train", "finetune", "generate", "evaluate", "report"]
# name -> changed params, stages that run. Each change is added to the changes before it.
CHANGES: dict[str, tuple[dict[str, object], list[str]]] = {
    "decoding": ({"generate.min_length": 3}, ["generate", "evaluate", "report"]),
    "model": ({"model.hidden": 24}, ["gradients", *LEARNING]),
    "vocabulary": ({"vocabulary.min_count": 3}, ["captions", "gradients", *LEARNING]),
    "features": ({"features.kind": "pooled", "model.attention": "none"}, ["features", *LEARNING]),
}


def settings(changes: dict[str, object]) -> list[str]:
    return [word for name, value in changes.items() for word in ("-S", f"{name}={value}")]


def read_json(folder: Path, *words: str) -> dict:
    """Run a DVC command with --json. Return the content of the first line that it prints."""
    return json.loads(command(folder, "dvc", *words, "--json").split("\n")[0])


def model_inputs(folder: Path) -> dict[str, str]:
    """Return the md5 in dvc.lock of each output of the stages before finetune."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {
        out["path"]: out["md5"]
        for stage in ("captions", "backbone", "features", "train")
        for out in stages[stage]["outs"]
    }


def test_a_change_runs_the_stages_that_depend_on_it_and_undoing_it_runs_none(clone):
    before, made = outputs(clone), {}
    for name, (changes, stages) in CHANGES.items():
        output = command(clone, "dvc", "exp", "run", "--name", name, *settings(changes))
        assert sorted(stages_run(output)) == sorted(stages), name
        inputs = yaml.safe_load(command(clone, "python", "-m", "stages.tools.provenance"))["inputs"]
        assert inputs.items() <= model_inputs(clone).items()
        assert inputs.keys() >= {"data/captions/captions.parquet", "data/backbone", "data/features", "data/decoder"}
        made[name] = outputs(clone)
    assert len({tuple(each.items()) for each in (before, *made.values())}) == 1 + len(CHANGES)
    changed = {param for changes, _ in CHANGES.values() for param in changes}
    assert read_json(clone, "params", "diff")["params.yaml"].keys() == changed
    assert "cider_d" in read_json(clone, "metrics", "diff", "--all")["metrics/scores.json"]
    metrics = read_json(clone, "metrics", "show")
    assert {"bleu_4", "truth"} <= metrics[""]["data"]["metrics/scores.json"]["data"].keys()

    for name in ("model", "decoding"):
        command(clone, "dvc", "exp", "apply", name)
        assert stages_run(command(clone, "dvc", "repro")) == []
        assert outputs(clone) == made[name]

    # Only the params are restored, so DVC finds the earlier run in its run cache.
    command(clone, "git", "checkout", "-q", "HEAD", "--", "params.yaml")
    output = command(clone, "dvc", "repro")
    assert stages_run(output) == []
    assert "is cached - skipping run" in output
    assert outputs(clone) == before
    assert command(clone, "git", "status", "--porcelain") == ""


def test_runs_in_a_temporary_folder_share_the_scratch_folder(clone, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTION_SCRATCH", str(tmp_path / "scratch"))
    for number, option in enumerate(["--temp", "--queue"], start=1):
        command(clone, "dvc", "exp", "run", option, "-S", f"train.seed={number + 10}")
        command(clone, "dvc", "exp", "run", "--run-all")
        assert len(list((tmp_path / "scratch/train").glob("*/checkpoint.pt"))) == number


def test_a_grid_runs_from_a_queue_and_any_two_runs_can_be_compared(clone):
    before = outputs(clone)
    grid = settings({"generate.beam_size": "1,2", "generate.min_length": "4,5"})
    command(clone, "dvc", "exp", "run", "--queue", *grid)
    command(clone, "dvc", "exp", "run", "--run-all")
    assert outputs(clone) == before

    found = {}
    for experiment in read_json(clone, "exp", "show")[1]["experiments"]:
        (revision,) = experiment["revs"]
        generate = revision["data"]["params"]["params.yaml"]["data"]["generate"]
        assert {"bleu_4", "truth"} <= revision["data"]["metrics"]["metrics/scores.json"]["data"].keys()
        found[generate["beam_size"], generate["min_length"]] = experiment["name"]
    assert found.keys() >= {(1, 4), (1, 5), (2, 4), (2, 5)}

    one, other = found[1, 4], found[2, 5]
    params = {
        "generate.beam_size": {"old": 1, "new": 2, "diff": 1},
        "generate.min_length": {"old": 4, "new": 5, "diff": 1},
    }
    scores = read_json(clone, "metrics", "diff", one, other)
    assert "cider_d" in scores["metrics/scores.json"]
    for name in (one, other):
        command(clone, "dvc", "exp", "apply", name)
        commit(clone, name)
    for revisions in ((one, other), ("HEAD~1", "HEAD")):
        assert read_json(clone, "exp", "diff", *revisions) == {"params": {"params.yaml": params}, "metrics": scores}
        shutil.rmtree(clone / "dvc_plots", ignore_errors=True)
        command(clone, "dvc", "plots", "diff", *revisions)
        page = (clone / "dvc_plots/index.html").read_text()
        expected = [*(f'"{name}"' for name in revisions), "train_loss", "val_bleu_4", "curves.png", "gallery.png"]
        assert [text for text in expected if text not in page] == []


def test_an_experiment_of_one_stage_in_a_fresh_clone_is_kept(clone, tmp_path):
    command(tmp_path, "git", "clone", "-q", str(clone), "fresh")
    command(tmp_path / "fresh", "dvc", "exp", "run", "--name", "words", "-S", "vocabulary.min_count=2", "captions")
    assert "words" in command(tmp_path / "fresh", "dvc", "exp", "list")


def test_quotes_inside_set_param_keep_a_path_with_any_character(clone, tmp_path):
    folder = tmp_path / "my photos (1), [2] {3} é & it's = #1"
    folder.mkdir()
    names = [f"{number}.png" for number in range(30)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{"id": number, "image_id": number, "caption": "a red dog"} for number in range(30)]
    (folder / "a, b (1).json").write_text(json.dumps({"images": images, "annotations": annotations}))
    options = ["dataset.name=local", f'dataset.local.images="{folder}"']
    options += [f'dataset.local.annotations="{folder / "a, b (1).json"}"']
    command(clone, "dvc", "exp", "run", *(word for option in options for word in ("-S", option)), "captions")
    assert yaml.safe_load((clone / "params.yaml").read_text())["dataset"]["local"]["images"] == str(folder)
    assert len(pd.read_parquet(clone / "data/captions/images.parquet")) == 30
