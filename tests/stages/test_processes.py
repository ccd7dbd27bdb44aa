"""Stages on several processes, as a user starts them: CAPTION_PROCESSES, or torchrun."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.commands import free_port
from tests.lib.ranks import DEVICES, as_a_machine
from tests.stages.imports import ROOT
from tests.stages.tiny import STAGES, files, run, write_params
from tests.waiting import until

EPOCHS = 30
CHANGES = {"train.epochs": EPOCHS, "model.dropout": 0.3, "dataset.scenes.test": 230}  # three batches to caption


def start(
    folder: Path, stage: str, processes: int | str, command: tuple[str, ...] = (), device: str = "cpu", **more: str
) -> subprocess.Popen[str]:
    """Runs a stage as the leader of a process group; `more` are environment variables."""
    environment = {
        **os.environ, **more, "PYTHONPATH": str(ROOT), "CAPTION_DEVICE": device, "OMP_NUM_THREADS": "1",
        "CAPTION_PROCESSES": str(processes), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command, "-m", f"stages.{stage}"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Waits until the process and all that it started are gone; what they said since."""
    assert process.stdout
    assert process.stderr
    said, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    return said, errors


def stage(folder: Path, name: str, processes: int | str, device: str = "cpu") -> tuple[int, str, str]:
    """Runs a stage: its exit code, and what it said."""
    process = start(folder, name, processes, device=device)
    said, errors = rest(process)
    return process.returncode, said, errors


def await_epoch(process: subprocess.Popen[str], epoch: int) -> int:
    """Waits for the end of an epoch; returns the first that was told of."""
    assert process.stdout
    first = None
    for line in process.stdout:
        told = int(line.removeprefix("epoch ").split(":")[0])
        first = first or told
        if told == epoch:
            return first
    raise AssertionError(f"there was no epoch {epoch}")


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The ids of the processes that share the work."""
    return [int(number) for number in subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """All that train needs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run(tmp_path_factory.mktemp("project"), monkeypatch, STAGES[:4], **CHANGES)


@pytest.fixture
def copy(project, tmp_path):
    shutil.copytree(project, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory):
    """What two processes train."""
    folder = tmp_path_factory.mktemp("undisturbed") / "copy"
    shutil.copytree(project, folder)
    assert stage(folder, "train", 2)[0] == 0
    return files(folder)


def test_a_number_that_is_none_is_told_of(tmp_path):
    code, _, errors = stage(tmp_path, "train", "two")
    assert (code, errors) == (1, "error: CAPTION_PROCESSES: got 'two', should be a number from 1 on\n")


@pytest.mark.slow
@pytest.mark.parametrize("restarter", ["this stage", "torchrun"])
def test_a_killed_process_is_started_again_and_goes_on_to_the_same_bytes(copy, undisturbed, restarter):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    process = start(copy, "train", *((2, ()) if restarter == "this stage" else (1, torchrun)))
    moments = random.Random(restarter)
    for epoch in (3, 12):
        await_epoch(process, epoch)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(moments.choice(workers(process)), signal.SIGKILL)
    said, errors = rest(process)
    assert process.returncode == 0, errors
    assert f"epoch {EPOCHS}:" in said
    assert "epoch 10:" not in said  # it went on, and did not begin anew
    if restarter == "this stage":
        told = "a process was ended by SIGKILL: all start again, from the last checkpoint if there is one\n"
        assert errors == 2 * told
    assert files(copy) == undisturbed


def start_machines(folder: Path, stage: str, device: str) -> list[subprocess.Popen[str]]:
    """Runs a stage on two machines that share a folder, a process on each; the first is not always rank 0."""
    meeting = f"127.0.0.1:{free_port()}"
    torchrun = (
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3",
        "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", meeting, "--local-addr", "127.0.0.1",
    )  # fmt: skip
    return [start(folder, stage, 1, torchrun, device, **as_a_machine(number)) for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_process_killed_on_one_of_two_machines_changes_nothing(copy, tmp_path, device):
    results = []
    for doomed in (None, 0, 1):
        folder = tmp_path / f"doomed-{doomed}"
        shutil.copytree(copy, folder)
        machines = start_machines(folder, "train", device)
        if doomed is not None:
            until(lambda at=folder: list(at.glob(".scratch/train/*/checkpoint.safetensors")), *machines, seconds=300)
            os.kill(workers(machines[doomed])[0], signal.SIGKILL)
        said = [rest(machine) for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], said
        lines = "".join(output for output, _ in said)
        assert lines.count("epoch 1:") == 1  # what went on did not begin anew
        assert lines.count(f"epoch {EPOCHS}:") == 1
        results.append(files(folder))
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed_and_back(copy):
    last = 0
    for processes, epoch in ((2, 4), (1, 9), (3, 14), (1, EPOCHS)):
        process = start(copy, "train", processes)
        assert await_epoch(process, epoch) in (last, last + 1)  # what was told of may not have been saved yet
        if epoch < EPOCHS:
            os.killpg(process.pid, signal.SIGKILL)  # as DVC would be; the other processes are not in its group
        said, _ = rest(process)
        last = max([epoch, *map(int, re.findall(r"^epoch (\d+):", said, re.MULTILINE))])
    assert process.returncode == 0
    assert pd.read_csv(copy / "metrics/train/curves.csv")["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert len(list((copy / ".scratch/train").iterdir())) == 1
    assert not list(copy.rglob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_all_processes(copy, sent, code):
    process = start(copy, "train", 2)
    await_epoch(process, 2)
    numbers = workers(process)
    assert len(numbers) == 2
    os.killpg(process.pid, sent)
    _, errors = rest(process)
    assert process.returncode == code
    assert errors == ("interrupted\n" if sent == signal.SIGINT else "")
    until(lambda: not any(Path(f"/proc/{number}").exists() for number in numbers), seconds=30)


@pytest.mark.slow
def test_an_error_is_told_once(copy):
    write_params(copy, **{**CHANGES, "train.epochs": "many"})
    code, said, errors = stage(copy, "train", 3)
    assert (code, said, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("error: params.yaml: train.epochs: got 'many'")


@pytest.mark.slow
def test_an_error_in_joining_is_told_once(copy):
    code, said, errors = stage(copy, "train", 3, device="gpu")
    assert (code, said, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("error: CAPTION_DEVICE: got 'gpu'")


@pytest.mark.slow
def test_an_error_of_the_first_process_alone_is_told_once(copy):
    (copy / ".scratch").mkdir(exist_ok=True)
    shutil.rmtree(copy / ".scratch")
    (copy / ".scratch").write_text("a file where the folder should be")
    code, _, errors = stage(copy, "train", 2)
    assert code == 1
    assert errors.startswith("error: .scratch")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam", "sample"])
def test_captions_are_the_same_bytes_whatever_the_number(copy, method):
    short = {"train.epochs": 2, "train.scst.epochs": 1, "train.scst.samples": 2, "generate.min_length": 3}
    write_params(copy, **{**CHANGES, **short, "generate.method": method})
    for name in ("train", "finetune"):
        code, _, errors = stage(copy, name, 2)
        assert code == 0, errors
    made = []
    for processes in (1, 2, 3):
        shutil.rmtree(copy / "metrics")
        code, said, errors = stage(copy, "generate", processes)
        assert (code, said.count("captions written")) == (0, 2), errors
        made.append(files(copy / "metrics"))
    assert made[0].keys() == {"captions.json", "captions_val.json", "attention.npy"}
    assert made[0] == made[1] == made[2]
    assert len(np.load(copy / "metrics/attention.npy"))
