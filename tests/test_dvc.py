"""The pipeline as its users run it: real `dvc` commands in a fresh clone, on a tiny data set."""

import hashlib
import json
import shutil
import subprocess
import time

import pytest
import yaml

from tests import miniature
from tests.commands import attempt, command, outputs, stages_run
from tests.servers import serving
from tests.stages.tiny import STAGES, write_params

pytestmark = pytest.mark.slow

RERUNS = {
    "lib/search/beam.py": ["generate"],
    "lib/search/constraints.py": ["generate"],
    "lib/search/consensus.py": ["generate"],
    "lib/search/ensemble.py": ["generate"],
    "lib/finetuning/sampling.py": ["finetune", "generate"],
    "lib/finetuning/reward.py": ["finetune", "generate"],
    "lib/evaluation/intervals.py": ["evaluate"],
    "lib/report/plots.py": ["report"],
}


def test_with_nothing_changed_nothing_is_run(clone):
    start = time.perf_counter()
    output = command(clone, "dvc", "repro")
    print(f"no-op dvc repro: {time.perf_counter() - start:.1f} s")
    assert stages_run(output) == []
    assert "up to date" in output


@pytest.mark.parametrize(("edited", "rerun"), RERUNS.items())
def test_an_edit_of_code_reruns_the_stages_that_list_its_room(clone, edited, rerun):
    """Outputs do not depend on a comment, so DVC runs no stage further down."""
    code = clone / edited
    before, text = outputs(clone), code.read_text()
    code.write_text(f"{text}# edited\n")
    assert stages_run(command(clone, "dvc", "repro")) == rerun
    code.write_text(text)
    assert stages_run(command(clone, "dvc", "repro")) == []
    assert outputs(clone) == before


def test_plots_are_drawn(clone):
    command(clone, "dvc", "plots", "show")
    page = (clone / "dvc_plots/index.html").read_text()
    for name in ("train_loss", "val_bleu_4", "curves.png", "gallery.png"):
        assert name in page, name


def test_a_data_set_by_name_is_one_command_and_lies_on_the_disk_once(clone, tmp_path):
    made = miniature.write_coco(tmp_path / "made", 2014)
    checksums = miniature.write_checksums(made, tmp_path / "checksums.txt")
    changes = {
        "dataset.checksums": checksums, "backbone.name": "small_net", "backbone.weights": "fit",
        "backbone.fit.min_count": 1, "model.embedding": 16, "model.hidden": 16, "train.epochs": 1,
    }  # fmt: skip
    with serving() as server:
        for path in made:
            server.serve(f"/{path.name}", path.read_bytes())

        def run(**more: object) -> str:
            settings = {**changes, "dataset.mirror": server.url, **more}
            given = " ".join(f"-S {name}={value}" for name, value in settings.items())
            return command(clone, "make", "-o", ".venv/.ready", "coco2014", f"SET={given}")

        assert set(stages_run(run())) == set(STAGES)
        for path in made:
            raw, digest = clone / "data/raw" / path.name, hashlib.md5(path.read_bytes()).hexdigest()
            assert raw.samefile(clone / ".dvc/cache/files/md5" / digest[:2] / digest[2:])
            assert raw.samefile(clone / ".scratch/downloads" / digest)
        asked = len(server.requests)
        assert stages_run(run(**{"dataset.mirror": "http://elsewhere.invalid/"})) == []
        # The store is the user's to empty: DVC's cache still has the files.
        shutil.rmtree(clone / ".scratch")
        assert stages_run(run(**{"dataset.limit": 1}))[:2] == ["download", "captions"]
        assert len(server.requests) == asked


def test_a_slip_stops_the_pipeline_before_anything_is_lost(clone):
    before = (clone / "metrics/scores.json").read_text()
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("cell: ", "cell: x"))
    done = attempt(clone, "dvc", "repro")
    (clone / "params.yaml").write_text(params)
    assert done.returncode != 0
    assert "model.cell: got 'x" in done.stdout + done.stderr
    assert (clone / "metrics/scores.json").read_text() == before


def test_two_runs_are_compared_while_the_workspace_stays_as_it_is(clone):
    command(clone, "git", "checkout", "-qf", "HEAD", "--", ".")
    # Changes that are not committed: they count, and stay.
    write_params(clone, **{"generate.beam_size": 10})
    command(clone, "dvc", "repro")
    command(clone, "git", "add", "dvc.lock")
    (clone / "README.md").write_text("changed")
    compared = clone / "metrics/compare/cell"

    def workspace() -> dict[str, str]:
        status = command(clone, "git", "status", "--porcelain", "--", ".", ":!metrics/compare/cell")
        folders = [clone / name for name in ("data", "metrics")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        files += [clone / name for name in ("params.yaml", "dvc.lock", "README.md")]
        digests = {
            str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in files if compared not in path.parents
        }
        return {"status": status, **digests}

    def compare(settings: str) -> subprocess.CompletedProcess[str]:
        return attempt(clone, "make", "-o", ".venv/.ready", "compare", f"SET={settings}")

    before = workspace()
    done = compare("-S train.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_run(done.stdout).count("train") == 2
    assert workspace() == before
    shown = command(clone, "dvc", "exp", "show", "--csv")
    for cell in ("rnn", "lstm"):
        assert f"compare-cell-{cell}" in shown
        revision = command(clone, "git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/compare-cell-{cell}")
        params = yaml.safe_load(command(clone, "git", "show", f"{revision.strip()}:params.yaml"))
        assert (params["model"]["cell"], params["train"]["epochs"], params["generate"]["beam_size"]) == (cell, 1, 10)
        scores = json.loads(command(clone, "git", "show", f"{revision.strip()}:metrics/scores.json"))
        assert json.loads((compared / "scores.json").read_text())["scores"][cell.upper()] == scores

    files = {path.name: path.read_bytes() for path in compared.iterdir()}
    done = compare("-S train.epochs=1")
    assert set(stages_run(done.stdout)) <= {"report"}  # which shows a comparison that Git tracks
    assert {path.name: path.read_bytes() for path in compared.iterdir()} == files
    experiments = command(clone, "dvc", "exp", "list")
    done = compare("-S train.epochs=none")
    assert done.returncode != 0
    assert "error: params.yaml: train.epochs: got 'none'" in done.stdout + done.stderr
    assert "error: compare-cell-rnn failed" in done.stderr
    assert {path.name: path.read_bytes() for path in compared.iterdir()} == files
    assert command(clone, "dvc", "exp", "list") == experiments

    assert workspace() == before
    assert stages_run(command(clone, "dvc", "repro")) == ["report"]
    assert "<h2>RNN against LSTM</h2>" in (clone / "metrics/report/index.html").read_text()
    assert stages_run(command(clone, "dvc", "repro")) == []


def test_a_fresh_clone_compares_before_anything_else_was_run(clone, tmp_path):
    command(tmp_path, "git", "clone", "-q", str(clone), "fresh")
    fresh = tmp_path / "fresh"
    output = command(fresh, "make", "-o", ".venv/.ready", "compare", "WHAT=features", "SET=-S train.epochs=1")
    assert stages_run(output).count("features") == 2
    assert stages_run(output).count("backbone") == 1
    assert list(json.loads((fresh / "metrics/compare/features/scores.json").read_text())["scores"]) == [
        "pooled",
        "grid",
    ]
    assert command(fresh, "git", "status", "--porcelain").split("\n")[0] in ("", "?? metrics/compare/features/")
    assert not (fresh / "data/model").exists()
