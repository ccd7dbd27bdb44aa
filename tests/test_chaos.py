"""Every stage killed at random moments, with every signal: in the end stands what would stand there undisturbed.

`make chaos` kills a hundred times (KILLS=10 of each stage); `make test-all` once a stage.
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

import pytest
import yaml

from tests.commands import attempt, command, environment
from tests.stages.test_pipeline import STAGES, files

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "1"))
SIGNALS = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])


def outputs(folder: Path) -> dict[str, Any]:
    """Everything that the stages made, and what DVC noted of it, in whatever order."""
    made = {f"{top}/{name}": content for top in ("data", "metrics") for name, content in files(folder / top).items()}
    return {**made, "dvc.lock": yaml.safe_load((folder / "dvc.lock").read_text())}


def start(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Runs one stage, whatever was done of it, as the leader of a process group; returns when the stage begins."""
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", stage], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    said = []
    for line in process.stdout:
        if "> python -m" in line:
            return process
        said.append(line)
    raise AssertionError(f"{stage} did not begin: {''.join(said)}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stdout
    said = process.stdout.read()
    return process.wait(), said


def mend(folder: Path) -> None:
    """What the README says to do where DVC was killed while it wrote dvc.lock, which it does not do at once."""
    if attempt(folder, "dvc", "status").returncode != 0:
        command(folder, "git", "checkout", "dvc.lock")


def test_what_is_killed_and_run_again_ends_as_if_undisturbed(clone, tmp_path):
    command(clone, "dvc", "repro")
    expected, status = outputs(clone), command(clone, "git", "status", "--porcelain")
    shutil.copytree(clone, tmp_path / "disturbed", symlinks=True)
    disturbed, moments, kills = tmp_path / "disturbed", random.Random(0), 0
    for stage in STAGES:
        begun = time.monotonic()
        code, said = finish(start(disturbed, stage))
        assert code == 0, said
        longest, killed = time.monotonic() - begun, 0
        for _ in range(10 * KILLS):
            process = start(disturbed, stage)
            time.sleep(moments.uniform(0, longest))
            if process.poll() is None:
                os.killpg(process.pid, next(SIGNALS))
                code, _ = finish(process)
                killed += code != 0  # else the stage was over already
                mend(disturbed)
            if killed == KILLS:
                break
        kills += killed
        # Whatever is left of a stage that was killed, the next ones never take it for whole.
        command(disturbed, "dvc", "repro")
        assert outputs(disturbed) == expected, stage
    print(f"{kills} kills in {len(STAGES)} stages")
    assert kills == KILLS * len(STAGES)
    assert command(disturbed, "git", "status", "--porcelain") == status
    assert not list(disturbed.rglob("*.unfinished"))
    assert "up to date" in command(disturbed, "dvc", "repro")
