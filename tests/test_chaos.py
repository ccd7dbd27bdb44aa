"""Every stage, killed at random moments with every signal, ends with the outputs of an uninterrupted run.

`make chaos` kills each stage ten times (KILLS=10), `make test-all` once.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.commands import command, commit, environment
from tests.stages.tiny import STAGES, files, write_params

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "1"))
SIGNALS = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
# Every kind of training, each long enough to be killed before it ends.
PARAMS = {
    "dataset.scenes.train": 64, "backbone.fit.epochs": 4, "backbone.tune.epochs": 2, "train.epochs": 4,
    "finetune.epochs": 2, "finetune.batch_size": 8, "finetune.samples": 2,
}  # fmt: skip
RESUMABLE = {"backbone", "features", "train", "finetune"}  # these use the scratch folder


def outputs(folder: Path) -> dict[str, Any]:
    """Return all files that the stages wrote, and dvc.lock without the order of its stages."""
    made = {f"{top}/{name}": content for top in ("data", "metrics") for name, content in files(folder / top).items()}
    return {**made, "dvc.lock": yaml.safe_load((folder / "dvc.lock").read_text())}


class NotStartedError(Exception):
    """DVC ended before the stage started. The text is its output."""


def start(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Run one stage in its own process group, even if it is up to date; return when the stage starts."""
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", stage], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    output = ""
    for line in process.stdout:
        if "> python -m" in line:
            return process
        output += line
    raise NotStartedError(output)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output = process.stdout.read()
    return process.wait(), output


def mend(folder: Path) -> None:
    """Do what docs/troubleshooting.md says if DVC was killed while it wrote one of its own files."""
    (folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    command(folder, "git", "checkout", "dvc.lock")


def processes(folder: Path) -> list[str]:
    """Return the commands that run in a folder."""
    running = psutil.process_iter(["cwd", "cmdline"])
    return [" ".join(process.info["cmdline"] or []) for process in running if process.info["cwd"] == str(folder)]


def unfinished(folder: Path) -> list[Path]:
    """Return incomplete files and locks of Git."""
    return [path for pattern in ("*.unfinished", ".git/*.lock") for path in folder.rglob(pattern)]


def changed(folder: Path) -> str:
    """Return what Git reports as changed, without dvc.lock, whose order of stages may change."""
    return command(folder, "git", "status", "--porcelain", "--", ".", ":!dvc.lock")


def test_killed_stages_end_with_the_outputs_of_an_uninterrupted_run(clone, tmp_path):
    write_params(clone, **PARAMS)
    extraction = clone / "lib/extraction/extract.py"
    extraction.write_text(extraction.read_text().replace("SHARD_SIZE = 2048", "SHARD_SIZE = 8"))
    command(clone, "dvc", "repro")
    commit(clone, "longer")
    assert len(list((clone / "data/features").glob("*.npy"))) > 5
    expected, status = outputs(clone), changed(clone)
    disturbed = shutil.copytree(clone, tmp_path / "disturbed", symlinks=True)
    scratch, rng, repairs = disturbed / ".scratch", random.Random(0), 0

    def begin(stage: str) -> subprocess.Popen[str]:
        nonlocal repairs
        try:
            return start(disturbed, stage)
        except NotStartedError:
            repairs += 1
            mend(disturbed)
            return start(disturbed, stage)

    for stage in STAGES:
        shutil.rmtree(scratch, ignore_errors=True)  # otherwise the stage finds its finished work there
        begun = time.monotonic()
        code, output = finish(start(disturbed, stage))
        assert code == 0, output
        longest, killed = time.monotonic() - begun, 0
        assert (scratch / stage).exists() == (stage in RESUMABLE)
        for _ in range(10 * KILLS):
            from_start = killed % 3 == 0  # otherwise the stage resumes
            if from_start:
                shutil.rmtree(scratch, ignore_errors=True)
            begun = time.monotonic()
            process = begin(stage)
            # Imports take half the time of a short stage, so wait until its work starts.
            while from_start and stage in RESUMABLE and process.poll() is None and not (scratch / stage).exists():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, max(0.0, begun + longest - time.monotonic())))
            if process.poll() is None:
                os.killpg(process.pid, next(SIGNALS))
                code, _ = finish(process)
                killed += code != 0  # 0: the stage had already ended
            if killed == KILLS:
                break
        assert killed == KILLS
        code, output = finish(begin(stage))
        assert code == 0, output
        command(disturbed, "dvc", "repro")
        assert outputs(disturbed) == expected, stage
        assert unfinished(disturbed) == []
        assert processes(disturbed) == []
        print(f"{stage}: {killed} kills in up to {longest:.1f} s", flush=True)
    print(f"repaired DVC's own files {repairs} times")
    assert changed(disturbed) == status
    assert "up to date" in command(disturbed, "dvc", "repro")
