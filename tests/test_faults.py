"""Faults under real `dvc` commands: a full disk, read-only folders, two runs at once, stale locks, a wrong clock.

Each fault ends in a one-line error or in the right result.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import attempt, command, environment, stages_run
from tests.stages.tiny import STAGES, write_params
from tests.test_chaos import finish, mend, outputs, processes, start, unfinished
from tests.waiting import until

pytestmark = pytest.mark.slow

FREE_PID = 2**22 + 1  # above the largest process id of Linux
REPRO = ("dvc", "repro", "--force", "--single-item")


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a command failed without a traceback; return what it printed."""
    output = done.stdout + done.stderr
    assert done.returncode != 0, output
    assert "Traceback" not in output
    return output


@pytest.fixture
def before(clone):
    """Return the outputs before the test. `dvc repro` must restore them after each fault."""
    return outputs(clone)


@pytest.fixture(scope="module")
def small_disk(clone):
    """Yield a copy of the project on a disk of 64 MB."""
    folder = clone.parent / "disk"
    folder.mkdir()
    done = attempt(folder, "sh", "-c", f"mount -t tmpfs -o size=64m small {folder}")
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
    try:
        command(folder, "cp", "-a", str(clone), ".")
        yield folder / clone.name
    finally:
        command(clone, "umount", str(folder))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_reported_and_nothing_is_lost(small_disk, clone, stage):
    shutil.rmtree(small_disk / ".scratch", ignore_errors=True)  # otherwise the stage may have nothing left to write
    process, ballast = start(small_disk, stage), small_disk.parent / "ballast"
    os.killpg(process.pid, signal.SIGSTOP)
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    os.killpg(process.pid, signal.SIGCONT)
    code, output = finish(process)
    ballast.unlink()
    assert code != 0
    assert f"error: the disk of {small_disk} is full" in output
    assert "Traceback" not in output
    mend(small_disk)
    command(small_disk, "dvc", "repro")
    assert outputs(small_disk) == outputs(clone)
    assert unfinished(small_disk) == []


@pytest.mark.parametrize(
    ("stage", "folder"),
    [("features", "data"), ("train", "data/decoder"), ("train", ".scratch"), ("generate", ".dvc/cache/files/md5")],
)
def test_a_read_only_folder_is_named(clone, before, stage, folder):
    # Without these capabilities root cannot write to a read-only folder either.
    as_user = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
    if as_user and not shutil.which("setpriv"):
        pytest.skip("as root, needs setpriv")
    shutil.rmtree(clone / ".scratch" / stage, ignore_errors=True)
    (clone / folder).chmod(0o555)
    try:
        done = attempt(clone, *as_user, *REPRO, stage)
    finally:
        (clone / folder).chmod(0o755)
    (error,) = (line for line in failed(done).splitlines() if "Permission denied" in line)
    assert folder in error
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


@pytest.mark.parametrize("second", ["train", "features"])
def test_a_second_run_at_the_same_time_is_rejected_and_the_first_one_finishes(clone, before, second):
    first = start(clone, "train")
    os.killpg(first.pid, signal.SIGSTOP)  # so that the first run cannot end too early
    try:
        output = failed(attempt(clone, *REPRO, second))
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert f"is busy, it is being blocked by:\n  (PID {first.pid}): " in output
    code, output = finish(first)
    assert code == 0, output
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


def test_two_runs_that_start_together_change_no_output(clone, before):
    words = ["dvc", "repro", "--force", "evaluate"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen(words, cwd=clone, env=environment(), **streams) for _ in range(2)]
    for run in runs:
        code, output = finish(run)
        assert code == 0 or "is busy" in output or "Unable to acquire lock" in output
        assert "Traceback" not in output
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


def rwlock(clone: Path, pid: int) -> str:
    """Return DVC's list of the outputs in use, as a killed `dvc repro` of train leaves it."""
    return json.dumps({"write": {str(clone / "data/decoder"): {"pid": pid, "cmd": "dvc repro"}}, "read": {}})


@pytest.mark.parametrize("content", ["", "garbage", f" {FREE_PID}\n"])
def test_a_lock_of_a_killed_process_does_not_stop_a_run(clone, before, content):
    for name in ("lock", "rwlock.lock"):
        (clone / ".dvc/tmp" / name).write_text(content)
    (clone / ".dvc/tmp/rwlock").write_text(rwlock(clone, FREE_PID))
    command(clone, *REPRO, "train")
    assert "up to date" in command(clone, "dvc", "repro")
    assert outputs(clone) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".dvc/tmp/rwlock", lambda clone: ""),
        (".dvc/tmp/rwlock", lambda clone: rwlock(clone, 1)[:30]),
        (".dvc/tmp/rwlock", lambda clone: rwlock(clone, os.getpid())),
        ("dvc.lock", lambda clone: ""),
        ("dvc.lock", lambda clone: (clone / "dvc.lock").read_text()[:10_000] + "\n  - :"),
    ],
    ids=["empty rwlock", "half an rwlock", "another process's rwlock", "empty dvc.lock", "half a dvc.lock"],
)
def test_an_incomplete_file_of_a_killed_dvc_is_named_and_the_remedy_helps(clone, before, name, content):
    (clone / name).write_text(content(clone))
    assert f"{name}'" in failed(attempt(clone, *REPRO, "train"))
    mend(clone)
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


@pytest.mark.parametrize("length", [8192, 16384, 24576])  # DVC writes blocks of 8 KiB
def test_a_truncated_dvc_lock_is_rejected_or_restored_from_the_cache(clone, before, length):
    content = (clone / "dvc.lock").read_text()
    assert len(content) > length
    (clone / "dvc.lock").write_text(content[:length])
    done = attempt(clone, "dvc", "repro")
    if done.returncode != 0:
        assert "./dvc.lock" in failed(done)
        mend(clone)
        done = attempt(clone, "dvc", "repro")
    assert stages_run(done.stdout) == []
    assert outputs(clone) == before


@pytest.mark.parametrize("years", [-20, 20])
def test_modification_times_in_the_past_or_the_future_do_not_matter(clone, before, years):
    code, seconds = clone / "lib/evaluation/diversity.py", time.time() + years * 365 * 24 * 3600.0
    for path in clone.rglob("*"):
        if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(clone).parts):
            os.utime(path, (seconds, seconds))
    assert stages_run(command(clone, "dvc", "repro")) == []
    text = code.read_text()
    code.write_text(f"{text}# {years}\n")
    os.utime(code, (0, 0))
    assert stages_run(command(clone, "dvc", "repro")) == ["evaluate"]
    code.write_text(text)
    assert stages_run(command(clone, "dvc", "repro")) == []
    assert outputs(clone) == before


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
def test_a_clock_in_the_past_does_not_change_the_outputs(clone, tmp_path):
    past = shutil.copytree(clone, tmp_path / "past", symlinks=True)
    shutil.rmtree(past / ".scratch")
    command(past, "faketime", "2001-01-01 00:00:00", "dvc", "repro", "--force")
    assert outputs(past) == outputs(clone)
    assert stages_run(command(past, "dvc", "repro")) == []


def larger(clone: Path, folder: Path) -> Path:
    """Return a copy with params that have not run yet: three shards of features, four epochs of training."""
    shutil.copytree(clone, folder, symlinks=True)
    more = {"dataset.scenes.train": 4200, "backbone.fit.batch_size": 64, "train.epochs": 4, "train.batch_size": 128}
    write_params(folder, **more)
    return folder


def test_four_interrupted_workers_repeat_no_work_and_write_the_bytes_of_one(clone, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTION_WORKERS", "1")
    undisturbed = larger(clone, tmp_path / "undisturbed")
    command(undisturbed, "dvc", "repro")

    monkeypatch.setenv("CAPTION_WORKERS", "4")
    disturbed = larger(clone, tmp_path / "disturbed")
    shutil.rmtree(disturbed / ".scratch")
    command(disturbed, "dvc", "repro", "backbone")
    process = start(disturbed, "features")
    reports = until(lambda: list(disturbed.glob(".scratch/features/*/report-*.parquet")), process, seconds=300)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    times = {report: report.stat().st_mtime_ns for report in reports}
    assert len(times) < 3
    command(disturbed, "dvc", "repro", "features")
    assert {report: report.stat().st_mtime_ns for report in reports} == times

    process = start(disturbed, "train")
    assert any(line.startswith("epoch 2: ") for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    epochs = re.findall(r"^epoch (\d): ", command(disturbed, "dvc", "repro", "train"), re.MULTILINE)
    assert epochs in (list("234"), list("34"))  # an epoch is printed before it is saved
    command(disturbed, "dvc", "repro")
    assert outputs(disturbed) == outputs(undisturbed)
    assert unfinished(disturbed) == []


def test_the_workers_of_a_killed_stage_end(clone, tmp_path, monkeypatch):
    """If memory runs out, the kernel kills one process, not its group."""
    monkeypatch.setenv("CAPTION_WORKERS", "2")
    folder = larger(clone, tmp_path / "project")
    stage = subprocess.Popen([sys.executable, "-m", "stages.download"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: sum("spawn_main" in command for command in processes(folder)) >= 2, stage, seconds=300)
    stage.kill()
    stage.wait()
    until(lambda: processes(folder) == [], seconds=60)
