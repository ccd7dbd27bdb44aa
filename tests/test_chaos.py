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

import psutil
import pytest
import yaml

from tests.commands import command, commit, environment
from tests.stages.tiny import STAGES, files, write_params

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "1"))
SIGNALS = itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
# Every kind of training, and each long enough to be struck at work.
PARAMS = {
    "dataset.scenes.train": 64, "backbone.fit.epochs": 4, "backbone.tune.epochs": 2, "train.epochs": 4,
    "finetune.epochs": 2, "finetune.batch_size": 8, "finetune.samples": 2,
}  # fmt: skip
GO_ON = {"backbone", "features", "train", "finetune"}  # from what they find in the scratch folder


def outputs(folder: Path) -> dict[str, Any]:
    """Everything that the stages made, and what DVC noted of it, in whatever order."""
    made = {f"{top}/{name}": content for top in ("data", "metrics") for name, content in files(folder / top).items()}
    return {**made, "dvc.lock": yaml.safe_load((folder / "dvc.lock").read_text())}


class NotBegunError(Exception):
    """DVC ended before the stage began; the text is what it said."""


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
    raise NotBegunError("".join(said))


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stdout
    said = process.stdout.read()
    return process.wait(), said


def mend(folder: Path) -> None:
    """What the README says to do where DVC was killed while it wrote one of its own files, which it does in place."""
    (folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    command(folder, "git", "checkout", "dvc.lock")


def processes(folder: Path) -> list[str]:
    """The commands that are running in a folder."""
    running = psutil.process_iter(["cwd", "cmdline"])
    return [" ".join(process.info["cmdline"] or []) for process in running if process.info["cwd"] == str(folder)]


def unfinished(folder: Path) -> list[Path]:
    """What would be left of files that were not written whole, and of locks on Git's."""
    return [path for pattern in ("*.unfinished", ".git/*.lock") for path in folder.rglob(pattern)]


def changed(folder: Path) -> str:
    """What Git finds changed or new, but for dvc.lock, whose stages may have come to stand in another order."""
    return command(folder, "git", "status", "--porcelain", "--", ".", ":!dvc.lock")


def test_what_is_killed_and_run_again_ends_as_if_undisturbed(clone, tmp_path):
    write_params(clone, **PARAMS)
    extraction = clone / "lib/extraction/extract.py"
    extraction.write_text(extraction.read_text().replace("SHARD_SIZE = 2048", "SHARD_SIZE = 8"))
    command(clone, "dvc", "repro")
    commit(clone, "longer")
    assert len(list((clone / "data/features").glob("*.npy"))) > 5
    expected, status = outputs(clone), changed(clone)
    shutil.copytree(clone, tmp_path / "disturbed", symlinks=True)
    disturbed, moments, kills, remedies = tmp_path / "disturbed", random.Random(0), 0, 0
    scratch = disturbed / ".scratch"

    def begin(stage: str) -> subprocess.Popen[str]:
        nonlocal remedies
        try:
            return start(disturbed, stage)
        except NotBegunError:
            remedies += 1
            mend(disturbed)
            return start(disturbed, stage)

    for stage in STAGES:
        shutil.rmtree(scratch, ignore_errors=True)  # it holds the work of the run before, and nothing would be done
        begun = time.monotonic()
        code, said = finish(start(disturbed, stage))
        assert code == 0, said
        longest, killed = time.monotonic() - begun, 0
        assert (scratch / stage).exists() == (stage in GO_ON)
        for _ in range(10 * KILLS):
            from_nothing = killed % 3 == 0  # else it goes on from where it was killed
            if from_nothing:
                shutil.rmtree(scratch, ignore_errors=True)
            begun = time.monotonic()
            process = begin(stage)
            # Half of a short stage are its imports: struck is what has been begun.
            while from_nothing and stage in GO_ON and process.poll() is None and not (scratch / stage).exists():
                time.sleep(0.01)
            time.sleep(moments.uniform(0, max(0.0, begun + longest - time.monotonic())))
            if process.poll() is None:
                os.killpg(process.pid, next(SIGNALS))
                code, _ = finish(process)
                killed += code != 0  # else the stage was over already
            if killed == KILLS:
                break
        kills += killed
        # Whatever is left of a stage that was killed, it goes on from there, and the next ones never take it for whole.
        code, said = finish(begin(stage))
        assert code == 0, said
        command(disturbed, "dvc", "repro")
        assert outputs(disturbed) == expected, stage
        assert unfinished(disturbed) == []
        assert processes(disturbed) == []
        print(f"{stage}: {killed} kills in up to {longest:.1f} s", flush=True)
    print(f"{kills} kills in {len(STAGES)} stages; {remedies} times one of DVC's own files had to be mended")
    assert kills == KILLS * len(STAGES)
    assert changed(disturbed) == status
    assert "up to date" in command(disturbed, "dvc", "repro")
