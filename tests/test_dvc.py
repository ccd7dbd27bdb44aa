"""Real `dvc` and `make` commands in a fresh clone, on a tiny data set."""

import hashlib
import json
import re
import shutil

import pytest
import yaml

from tests import miniature
from tests.commands import attempt, command, commit, outputs, stages_run
from tests.servers import serving
from tests.stages.tiny import STAGES, write_params

pytestmark = pytest.mark.slow

MAKE = ("make", "-o", ".venv/.ready")
RERUNS = {
    "lib/search/beam.py": ["generate"],
    "lib/finetuning/sampling.py": ["finetune", "generate"],
    "lib/evaluation/intervals.py": ["evaluate"],
    "lib/report/plots.py": ["report"],
}


@pytest.mark.parametrize(("edited", "rerun"), RERUNS.items())
def test_an_edit_of_code_reruns_the_stages_that_list_its_room(clone, edited, rerun):
    """A comment does not change the outputs, so no later stage runs."""
    code = clone / edited
    before, text = outputs(clone), code.read_text()
    code.write_text(f"{text}# edited\n")
    assert stages_run(command(clone, "dvc", "repro")) == rerun
    code.write_text(text)
    assert stages_run(command(clone, "dvc", "repro")) == []
    assert outputs(clone) == before


def test_one_command_runs_a_recipe_on_a_named_data_set_and_the_disk_holds_it_once(clone, tmp_path):
    made = miniature.write_coco(tmp_path / "made", 2014)
    checksums = miniature.write_checksums(made, tmp_path / "checksums.txt")
    changes = {
        "dataset.checksums": checksums, "backbone.name": "small_net", "backbone.weights": "fit",
        "backbone.fit.min_count": 1, "backbone.size": 64, "model.embedding": 16, "model.hidden": 16, "train.epochs": 1,
    }  # fmt: skip
    with serving() as server:
        for path in made:
            server.serve(f"/{path.name}", path.read_bytes())

        def run(*words: str, **more: object) -> list[str]:
            settings = {**changes, "dataset.mirror": server.url, **more}
            arguments = " ".join(f"-S {name}={value}" for name, value in settings.items())
            return stages_run(command(clone, *MAKE, "coco2014", f"SET={arguments}", *words))

        assert set(run()) == set(STAGES)
        for path in made:
            raw, digest = clone / "data/raw" / path.name, hashlib.md5(path.read_bytes()).hexdigest()
            assert raw.samefile(clone / ".dvc/cache/files/md5" / digest[:2] / digest[2:])
            assert raw.samefile(clone / ".scratch/downloads" / digest)
        num_requests = len(server.requests)
        assert run(**{"dataset.mirror": "http://elsewhere.invalid/"}) == []
        stages = run("RECIPE=recipes/coco_best.yaml", **{"finetune.epochs": 1})
        assert {"features", "train", "finetune", "generate"} <= set(stages)
        params = yaml.safe_load((clone / "params.yaml").read_text())
        assert (params["features"]["kind"], params["model"]["attention"]) == ("grid", "additive")
        shown = command(clone, "dvc", "exp", "show", "--csv")
        assert {"coco2014-coco_fast", "coco2014-coco_best"} <= set(re.split("[,\\n]", shown))
        shutil.rmtree(clone / ".scratch")  # DVC's cache still has the files
        assert run(**{"dataset.limit": 1})[:2] == ["download", "captions"]
        assert len(server.requests) == num_requests


def test_a_wrong_param_stops_the_pipeline_and_no_output_is_lost(clone):
    before, params = (clone / "metrics/scores.json").read_text(), (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("cell: ", "cell: x"))
    done = attempt(clone, "dvc", "repro")
    (clone / "params.yaml").write_text(params)
    assert done.returncode != 0
    assert "model.cell: got 'x" in done.stdout + done.stderr
    assert (clone / "metrics/scores.json").read_text() == before


def test_a_comparison_counts_uncommitted_changes_and_leaves_the_workspace_unchanged(clone):
    command(clone, "git", "checkout", "-qf", "HEAD", "--", ".")
    write_params(clone, **{"generate.beam_size": 10})
    command(clone, "dvc", "repro")
    command(clone, "git", "add", "dvc.lock")
    (clone / "README.md").write_text("changed")
    compared = clone / "metrics/compare/cell"

    def workspace() -> dict[str, object]:
        status = command(clone, "git", "status", "--porcelain", "--", ".", ":!metrics/compare/cell")
        folders = [clone / name for name in ("data", "metrics")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files += [clone / name for name in ("params.yaml", "dvc.lock", "README.md")]
        return {"status": status, **{str(path): path.read_bytes() for path in files if compared not in path.parents}}

    before = workspace()
    output = command(clone, *MAKE, "compare", "SET=-S train.epochs=1")
    assert stages_run(output).count("train") == 3
    assert len(re.findall(r"^\| (?:RNN|LSTM|Transformer) \| [\d,]+ \| [\d.]+ \| \d+ \|$", output, re.MULTILINE)) == 3
    assert workspace() == before
    shown = command(clone, "dvc", "exp", "show", "--csv")
    for name in ("RNN", "LSTM", "Transformer"):
        cell = name.lower()
        assert f"compare-cell-{cell}" in shown
        revision = command(clone, "git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/compare-cell-{cell}")
        params = yaml.safe_load(command(clone, "git", "show", f"{revision.strip()}:params.yaml"))
        assert (params["model"]["cell"], params["train"]["epochs"], params["generate"]["beam_size"]) == (cell, 1, 10)
        scores = json.loads(command(clone, "git", "show", f"{revision.strip()}:metrics/scores.json"))
        assert json.loads((compared / "scores.json").read_text())["scores"][name] == scores

    files = {path.name: path.read_bytes() for path in compared.iterdir()}
    output = command(clone, *MAKE, "compare", "SET=-S train.epochs=1")
    assert set(stages_run(output)) <= {"report"}  # the report includes a comparison if Git tracks it
    assert {path.name: path.read_bytes() for path in compared.iterdir()} == files
    experiments = command(clone, "dvc", "exp", "list")
    done = attempt(clone, *MAKE, "compare", "SET=-S train.epochs=none")
    assert done.returncode != 0
    assert "error: params.yaml: train.epochs: got 'none'" in done.stdout + done.stderr
    assert "error: compare-cell-lstm failed" in done.stderr
    assert {path.name: path.read_bytes() for path in compared.iterdir()} == files
    assert command(clone, "dvc", "exp", "list") == experiments

    assert workspace() == before
    assert stages_run(command(clone, "dvc", "repro")) == ["report"]
    assert "<h2>RNN, LSTM and Transformer</h2>" in (clone / "metrics/report/index.html").read_text()
    assert stages_run(command(clone, "dvc", "repro")) == []


def test_a_fresh_clone_can_start_with_a_comparison(clone, tmp_path):
    command(tmp_path, "git", "clone", "-q", str(clone), "fresh")
    fresh = tmp_path / "fresh"
    output = command(fresh, *MAKE, "compare", "WHAT=features", "SET=-S train.epochs=1")
    assert stages_run(output).count("features") == 2
    assert stages_run(output).count("backbone") == 1
    scores = json.loads((fresh / "metrics/compare/features/scores.json").read_text())["scores"]
    assert list(scores) == ["pooled", "grid"]
    assert command(fresh, "git", "status", "--porcelain").split("\n")[0] in ("", "?? metrics/compare/features/")
    assert not (fresh / "data/model").exists()


def test_a_folder_without_git_runs_the_pipeline_and_says_what_needs_git(clone, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(clone, project, ignore=shutil.ignore_patterns(".git"))
    (project / "lib/report/plots.py").open("a").write("# edited\n")
    assert stages_run(command(project, *MAKE, "repro")) == ["report"]
    assert "are up to date" in command(project, *MAKE, "repro")
    done = attempt(project, "make", "local")  # before the set-up, which takes a minute
    assert done.returncode != 0
    assert "error: make local" in done.stderr
    assert "git init" in done.stderr
    assert done.stdout == ""

    command(project, "git", "init", "-q")
    commit(project, "start")
    command(project, *MAKE, "scm")
    command(project, "dvc", "exp", "run", "--name", "words", "-S", "vocabulary.min_count=2", "captions")
    assert "words" in command(project, "dvc", "exp", "list")
