"""Stages in several processes, as a user starts them: with CAPTION_PROCESSES or torchrun."""

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
CHANGES = {"train.epochs": EPOCHS, "model.dropout": 0.3, "dataset.scenes.test": 230}  # test: three batches to caption


def start(
    folder: Path, stage: str, processes: int | str, command: tuple[str, ...] = (), device: str = "cpu", **more: str
) -> subprocess.Popen[str]:
    """Start a stage as the leader of a process group; `more` are environment variables."""
    environment = {
        **os.environ, **more, "PYTHONPATH": str(ROOT), "CAPTION_DEVICE": device, "OMP_NUM_THREADS": "1",
        "CAPTION_PROCESSES": str(processes), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command, "-m", f"stages.{stage}"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait until the process and its children are gone; return the rest of their output and errors."""
    output, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    return output, errors


def stage(folder: Path, name: str, processes: int | str, device: str = "cpu") -> tuple[int, str, str]:
    """Run a stage; return its exit code, output and errors."""
    process = start(folder, name, processes, device=device)
    output, errors = rest(process)
    return process.returncode, output, errors


def await_epoch(process: subprocess.Popen[str], epoch: int) -> int:
    """Wait for the end of an epoch; return the first epoch that was printed."""
    first = None
    for line in process.stdout:
        if not line.startswith("epoch "):
            continue
        number = int(line.removeprefix("epoch ").split(":")[0])
        first = first or number
        if number == epoch:
            return first
    raise AssertionError(f"there was no epoch {epoch}")


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of the processes that share the work."""
    return [int(number) for number in subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project with all inputs of train."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run(tmp_path_factory.mktemp("project"), monkeypatch, STAGES[:4], **CHANGES)


@pytest.fixture
def copy(project, tmp_path):
    return shutil.copytree(project, tmp_path / "copy")


@pytest.fixture(scope="module")
def uninterrupted(project, tmp_path_factory):
    """Return the outputs of train in two processes."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("uninterrupted") / "copy")
    assert stage(folder, "train", 2)[0] == 0
    return files(folder)


def test_an_error_is_one_line_and_a_non_zero_exit(tmp_path):
    code, _, errors = stage(tmp_path, "train", "two")
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: CAPTION_PROCESSES=two:")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["stage", "torchrun"])
def test_training_restarts_after_a_kill_and_ends_in_the_same_bytes(copy, uninterrupted, launcher):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    process = start(copy, "train", *((2, ()) if launcher == "stage" else (1, torchrun)))
    rng = random.Random(launcher)
    for epoch in (3, 12):
        await_epoch(process, epoch)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(rng.choice(workers(process)), signal.SIGKILL)
    output, errors = rest(process)
    assert process.returncode == 0, errors
    assert f"epoch {EPOCHS}:" in output
    assert "epoch 10:" not in output  # training resumed and did not start from the beginning
    if launcher == "stage":
        lines = errors.splitlines()
        assert len(lines) == 2
        assert all("SIGKILL" in line for line in lines)
    assert files(copy) == uninterrupted


def start_machines(folder: Path, stage: str, device: str) -> list[subprocess.Popen[str]]:
    """Start a stage on two simulated machines that share a folder; the first is not always rank 0."""
    endpoint = f"127.0.0.1:{free_port()}"
    torchrun = (
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3",
        "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", endpoint, "--local-addr", "127.0.0.1",
    )  # fmt: skip
    return [start(folder, stage, 1, torchrun, device, **as_a_machine(number)) for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_kill_on_one_of_two_machines_does_not_change_the_result(copy, tmp_path, device):
    results = []
    for victim in (None, 0, 1):
        folder = shutil.copytree(copy, tmp_path / f"victim-{victim}")
        machines = start_machines(folder, "train", device)
        if victim is not None:
            until(lambda at=folder: list(at.glob(".scratch/train/*/checkpoint.pt")), *machines, seconds=300)
            os.kill(workers(machines[victim])[0], signal.SIGKILL)
        outputs = [rest(machine) for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], outputs
        lines = "".join(output for output, _ in outputs)
        assert lines.count("epoch 1:") == 1  # training resumed and did not start from the beginning
        assert lines.count(f"epoch {EPOCHS}:") == 1
        results.append(files(folder))
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_training_resumes_with_another_number_of_processes(copy):
    last = 0
    for processes, epoch in ((2, 4), (1, 9), (3, 14), (1, EPOCHS)):
        process = start(copy, "train", processes)
        assert await_epoch(process, epoch) in (last, last + 1)  # the last printed epoch may not have been saved
        if epoch < EPOCHS:
            os.killpg(process.pid, signal.SIGKILL)  # the other processes are not in its group
        output, _ = rest(process)
        last = max([epoch, *map(int, re.findall(r"^epoch (\d+):", output, re.MULTILINE))])
    assert process.returncode == 0
    assert pd.read_csv(copy / "metrics/train/curves.csv")["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert len(list((copy / ".scratch/train").iterdir())) == 1
    assert not list(copy.rglob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
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
@pytest.mark.parametrize(
    "start", ["params.yaml: train.seed: got 'many'", "CAPTION_DEVICE=gpu:", "cannot read or write .scratch"]
)
def test_an_error_is_printed_once(copy, start):
    write_params(copy, **CHANGES, **({"train.seed": "many"} if start.startswith("params") else {}))
    if start.endswith(".scratch"):  # an error that only the main process raises
        shutil.rmtree(copy / ".scratch")
        (copy / ".scratch").write_text("a file in the place of the folder")
    code, output, errors = stage(copy, "train", 3, device="gpu" if "DEVICE" in start else "cpu")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(f"error: {start}")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam", "sample"])
def test_captions_do_not_depend_on_the_number_of_processes(copy, method):
    short = {"train.epochs": 2, "finetune.epochs": 1, "finetune.samples": 2, "generate.min_length": 3}
    write_params(copy, **{**CHANGES, **short, "generate.method": method})
    for name in ("train", "finetune"):
        code, _, errors = stage(copy, name, 2)
        assert code == 0, errors
    results = []
    for processes in (1, 2, 3):
        shutil.rmtree(copy / "metrics")
        code, output, errors = stage(copy, "generate", processes)
        assert (code, output.count(" captions\n")) == (0, 2), errors
        results.append(files(copy / "metrics"))
    assert results[0].keys() == {"captions.json", "captions_val.json", "attention.npy"}
    assert results[0] == results[1] == results[2]
    assert len(np.load(copy / "metrics/attention.npy"))
