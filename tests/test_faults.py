"""What else may go wrong under real `dvc` commands, and is told in a line or got right; there is never a wrong result.

A full disk, folders that may not be written to, two runs at once, locks of processes that are gone, a wrong clock.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import attempt, command, environment, stages_run
from tests.stages.tiny import STAGES, write_params
from tests.test_chaos import finish, mend, outputs, processes, start, unfinished
from tests.waiting import until

pytestmark = pytest.mark.slow

YEAR = 365 * 24 * 3600.0
GONE = 2**22 + 1  # no process has this number: Linux counts to 2 ** 22


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that should have failed, and in lines that a user can read."""
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def small_disk(clone):
    """The clone on a disk of its own."""
    if not shutil.which("mount"):
        pytest.skip("there is no mount, to make a small disk with")
    folder = clone.parent / "disk"
    folder.mkdir()
    done = attempt(folder, "mount", "-t", "tmpfs", "-o", "size=64m", "small", str(folder))
    if done.returncode != 0:
        pytest.skip(f"only who may mount can make a small disk: {done.stderr.strip()}")
    try:
        command(folder, "cp", "-a", str(clone), ".")
        yield folder / clone.name
    finally:
        command(clone, "umount", str(folder))


def fill(ballast: Path) -> None:
    """Leaves not a byte on a disk."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**20))
        except OSError:
            pass


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_is_told_and_nothing_is_lost(small_disk, clone, stage):
    shutil.rmtree(small_disk / ".scratch", ignore_errors=True)  # or there might be nothing left to write
    process, ballast = start(small_disk, stage), small_disk.parent / "ballast"
    os.killpg(process.pid, signal.SIGSTOP)
    fill(ballast)
    os.killpg(process.pid, signal.SIGCONT)
    code, said = finish(process)
    ballast.unlink()
    assert code != 0
    assert f"error: the disk of {small_disk} is full: make room and run again: what is done is kept\n" in said
    assert "Traceback" not in said
    mend(small_disk)
    command(small_disk, "dvc", "repro")
    assert outputs(small_disk) == outputs(clone)
    assert unfinished(small_disk) == []


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("features", "data"),
        ("train", "data/decoder"),
        ("evaluate", "metrics"),
        ("train", ".scratch"),
        ("generate", ".dvc/cache/files/md5"),
    ],
)
def test_a_folder_that_may_not_be_written_to_is_named(clone, stage, folder):
    # Root may write anywhere, but for one without these capabilities.
    as_user = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
    if as_user and attempt(clone, *as_user, "true").returncode != 0:
        pytest.skip("there is no setpriv, without which root may write anywhere")
    before = outputs(clone)
    shutil.rmtree(clone / ".scratch" / stage, ignore_errors=True)
    (clone / folder).chmod(0o555)
    try:
        done = attempt(clone, *as_user, "dvc", "repro", "--force", "--single-item", stage)
    finally:
        (clone / folder).chmod(0o755)
    told = [line for line in refused(done).splitlines() if "Permission denied" in line]
    assert len(told) == 1
    assert folder in told[0]
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


@pytest.mark.parametrize("second", ["train", "features"])
def test_of_two_runs_at_once_the_second_is_refused_and_the_first_unharmed(clone, second):
    before = outputs(clone)
    first = start(clone, "train")
    os.killpg(first.pid, signal.SIGSTOP)  # or it might be done by then
    try:
        said = refused(attempt(clone, "dvc", "repro", "--force", "--single-item", second))
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert f"is busy, it is being blocked by:\n  (PID {first.pid}): " in said
    code, said = finish(first)
    assert code == 0, said
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


def test_two_runs_that_start_together_do_no_harm(clone):
    before = outputs(clone)
    words = ["dvc", "repro", "--force", "evaluate"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen(words, cwd=clone, env=environment(), **streams) for _ in range(2)]
    for run in runs:
        code, said = finish(run)
        assert code == 0 or "is busy" in said or "Unable to acquire lock" in said
        assert "Traceback" not in said
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


def rwlock(clone: Path, pid: int) -> str:
    """DVC's list of who writes what, as a `dvc repro` of train leaves it that is killed."""
    return json.dumps({"write": {str(clone / "data/decoder"): {"pid": pid, "cmd": "dvc repro"}}, "read": {}})


@pytest.mark.parametrize("content", ["", "garbage", f" {GONE}\n"])
def test_a_lock_file_that_nobody_holds_is_no_hindrance(clone, content):
    before = outputs(clone)
    for name in ("lock", "rwlock.lock"):
        (clone / ".dvc/tmp" / name).write_text(content)
    (clone / ".dvc/tmp/rwlock").write_text(rwlock(clone, GONE))
    command(clone, "dvc", "repro", "--force", "--single-item", "train")
    assert "up to date" in command(clone, "dvc", "repro")
    assert outputs(clone) == before


def half(path: Path) -> str:
    return path.read_text()[: path.stat().st_size // 2]


@pytest.mark.parametrize(
    ("name", "told", "content"),
    [
        (".dvc/tmp/rwlock", "'.dvc/tmp/rwlock'", lambda clone: ""),
        (".dvc/tmp/rwlock", "'.dvc/tmp/rwlock'", lambda clone: rwlock(clone, 1)[:30]),
        (".dvc/tmp/rwlock", ".dvc/tmp/rwlock' and try again", lambda clone: rwlock(clone, os.getpid())),
        ("dvc.lock", "'./dvc.lock' validation failed", lambda clone: ""),
        ("dvc.lock", "'./dvc.lock'", lambda clone: half(clone / "dvc.lock") + "\n  - :"),
    ],
    ids=["no rwlock", "half an rwlock", "another process's rwlock", "no dvc.lock", "half a dvc.lock"],
)
def test_what_a_killed_dvc_leaves_half_written_is_named_and_the_remedy_helps(clone, name, told, content):
    before = outputs(clone)
    (clone / name).write_text(content(clone))
    assert told in refused(attempt(clone, "dvc", "repro", "--force", "--single-item", "train"))
    mend(clone)
    command(clone, "dvc", "repro")
    assert outputs(clone) == before


@pytest.mark.parametrize("whole", [8192, 16384, 24576, 32768])
def test_half_a_lock_file_is_refused_or_made_whole_from_the_cache(clone, whole):
    """Not only where the text breaks off is it half: DVC writes blocks of 8 KiB."""
    before = outputs(clone)
    content = (clone / "dvc.lock").read_text()
    assert len(content) > whole
    (clone / "dvc.lock").write_text(content[:whole])
    done = attempt(clone, "dvc", "repro")
    if done.returncode != 0:
        assert "./dvc.lock" in refused(done)
        mend(clone)
        done = attempt(clone, "dvc", "repro")
    assert stages_run(done.stdout) == []
    assert outputs(clone) == before


def set_times(folder: Path, seconds: float) -> None:
    """Sets the time of change of all that the project holds; of links to the same bytes, that of both."""
    for path in folder.rglob("*"):
        if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(folder).parts):
            os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("years", [-20, 20])
def test_on_times_of_change_in_the_past_or_the_future_nothing_depends(clone, years):
    before, code = outputs(clone), clone / "lib/evaluation/diversity.py"
    set_times(clone, time.time() + years * YEAR)
    assert stages_run(command(clone, "dvc", "repro")) == []
    # Newer than the outputs or older: what counts is that it differs.
    text = code.read_text()
    code.write_text(f"{text}# {years}\n")
    os.utime(code, (0, 0))
    assert stages_run(command(clone, "dvc", "repro")) == ["evaluate"]
    code.write_text(text)
    assert stages_run(command(clone, "dvc", "repro")) == []
    assert outputs(clone) == before


def test_under_a_clock_that_stands_in_the_past_the_same_bytes_come_out(clone, tmp_path):
    if not shutil.which("faketime"):
        pytest.skip("needs faketime, a program that sets the clock for another")
    shutil.copytree(clone, tmp_path / "past", symlinks=True)
    past = tmp_path / "past"
    shutil.rmtree(past / ".scratch")
    command(past, "faketime", "2001-01-01 00:00:00", "dvc", "repro", "--force")
    assert outputs(past) == outputs(clone)
    assert stages_run(command(past, "dvc", "repro")) == []


def larger(clone: Path, folder: Path) -> Path:
    """A copy with other params, for which nothing was run yet: three shards of features, four epochs of training."""
    shutil.copytree(clone, folder, symlinks=True)
    more = {"dataset.scenes.train": 4200, "backbone.fit.batch_size": 64, "train.epochs": 4, "train.batch_size": 128}
    write_params(folder, **more)
    return folder


def test_one_worker_or_four_interrupted_or_not_the_same_bytes_come_out_and_no_work_is_repeated(
    clone, tmp_path, monkeypatch
):
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
    assert process.stdout
    assert any(line.startswith("epoch 2: ") for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    told = re.findall(r"^epoch (\d): ", command(disturbed, "dvc", "repro", "train"), re.MULTILINE)
    assert told in (list("234"), list("34"))  # it is told before it is on the disk: then the second comes twice
    command(disturbed, "dvc", "repro")
    assert outputs(disturbed) == outputs(undisturbed)
    assert unfinished(disturbed) == []


def test_of_a_stage_that_is_killed_alone_no_worker_is_left(clone, tmp_path, monkeypatch):
    """As the kernel kills where memory is short: one process, not its group."""
    monkeypatch.setenv("CAPTION_WORKERS", "2")
    folder = larger(clone, tmp_path / "project")
    stage = subprocess.Popen([sys.executable, "-m", "stages.download"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: sum("spawn_main" in command for command in processes(folder)) >= 2, stage, seconds=300)
    stage.kill()
    stage.wait()
    until(lambda: processes(folder) == [], seconds=60)
