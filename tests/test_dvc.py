"""The pipeline as its users run it: real `dvc` commands in a fresh clone, on a tiny data set."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import miniature
from tests.servers import serving
from tests.stages.imports import ROOT
from tests.stages.test_pipeline import STAGES, write_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with the working tree's files, tiny params committed, and the whole DAG run once."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    write_params(folder)
    command(folder, "git", "add", "-A")
    command(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "tiny")
    command(folder, "dvc", "repro")
    command(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "run")
    return folder


def command(folder: Path, *words: str) -> str:
    """Runs a command with the virtual environment first on the path; returns what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def test_with_nothing_changed_nothing_is_run(clone):
    start = time.perf_counter()
    output = command(clone, "dvc", "repro")
    print(f"no-op dvc repro: {time.perf_counter() - start:.1f} s")
    assert stages_run(output) == []
    assert "up to date" in output


def test_an_experiment_reruns_what_depends_on_the_change_and_nothing_else(clone):
    output = command(clone, "dvc", "exp", "run", "-S", "model.cell=rnn")
    assert stages_run(output) == ["train", "generate", "evaluate", "report"]
    assert "model.cell" in command(clone, "dvc", "params", "diff")
    assert "cider_d" in command(clone, "dvc", "metrics", "diff", "--all")
    metrics = json.loads(command(clone, "dvc", "metrics", "show", "--json").split("\n")[0])
    assert {"bleu_4", "truth"} <= metrics[""]["data"]["metrics/scores.json"]["data"].keys()

    output = command(clone, "dvc", "exp", "run", "-S", "generate.beam_size=2")
    assert stages_run(output)[0] == "generate"
    output = command(clone, "dvc", "exp", "run", "-S", "vocabulary.min_count=2")
    assert {"captions", "train"} <= set(stages_run(output)) <= {*STAGES} - {"download", "backbone", "features"}


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
        "model.embedding": 16, "model.hidden": 16, "train.epochs": 1,
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
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["dvc", "repro"], cwd=clone, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    (clone / "params.yaml").write_text(params)
    assert done.returncode != 0
    assert "model.cell: got 'x" in done.stdout + done.stderr
    assert (clone / "metrics/scores.json").read_text() == before
