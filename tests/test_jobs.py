"""The job files of docs/jobs: a preempted pipeline resumes when its scheduler starts it again."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from tests.commands import attempt, command, environment
from tests.slurm import KILL_WAIT, cluster, needs_slurm
from tests.stages.imports import ROOT
from tests.stages.tiny import write_params
from tests.test_chaos import outputs, processes, unfinished
from tests.waiting import until

pytestmark = pytest.mark.slow

LONG = 1800.0  # seconds: enough for a pipeline on a busy machine
JOBS = ROOT / "docs/jobs"
EPOCHS = 150  # long enough to be preempted before the end


@pytest.fixture(scope="module")
def undisturbed(clone, tmp_path_factory):
    """Yield the outputs of an uninterrupted run. In `clone`, train is the next stage to run."""
    write_params(clone, **{"train.epochs": EPOCHS, "model.dropout": 0.3})
    folder = shutil.copytree(clone, tmp_path_factory.mktemp("undisturbed") / "copy", symlinks=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the bytes depend on it, and jobs may get any number of cores
        command(folder, "dvc", "repro")
        yield outputs(folder)


@pytest.fixture
def copy(clone, undisturbed, tmp_path):
    return shutil.copytree(clone, tmp_path / "copy", symlinks=True)


@pytest.fixture(scope="module")
def _slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as config, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield


def assert_resumed(output: str) -> None:
    """Check that the second of two runs resumed. `output` is the output of both."""
    assert output.count("Running stage 'train'") == 2, output
    training = output.partition("Running stage 'finetune'")[0]
    epochs = [int(number) for number in re.findall(r"^epoch (\d+):", training, re.MULTILINE)]
    assert sorted({*epochs}) == list(range(1, EPOCHS + 1))
    assert len(epochs) <= EPOCHS + 1  # an epoch is printed before it is saved


def submit(folder: Path, log: Path, *words: str | Path) -> str:
    """Submit a job; return its number."""
    return command(folder, "sbatch", "--parsable", f"--output={log}", *map(str, words)).strip()


def job(folder: Path, number: str) -> dict[str, str]:
    """Return what Slurm reports about a job."""
    return dict(re.findall(r"(\w+)=(\S+)", command(folder, "scontrol", "show", "job", number)))


@needs_slurm
@pytest.mark.usefixtures("_slurm")
def test_slurm_starts_a_preempted_job_again(copy, undisturbed, tmp_path):
    log, log_of_next, urgent = tmp_path / "log", tmp_path / "log-of-next", tmp_path / "urgent"
    number = submit(copy, log, JOBS / "captions.sbatch")
    following = submit(copy, log_of_next, JOBS / "captions.sbatch")
    until(lambda: log.exists() and "epoch 3:" in log.read_text(), seconds=LONG)
    assert job(copy, following)["Reason"] == "Dependency"

    # Simulate Slurm's warning at the start of a GraceTime. If the job file used srun, this signal would end the job.
    command(copy, "scancel", "--signal=TERM", number)
    begun = time.monotonic()
    submit(tmp_path, tmp_path / "log-of-urgent", "--partition=urgent", f"--wrap=touch {urgent}; sleep 3")
    until(urgent.exists, seconds=LONG)
    assert time.monotonic() - begun < KILL_WAIT  # SIGTERM reached all processes
    until(lambda: processes(copy) == [], seconds=3)
    assert 3 <= log.read_text().count("\nepoch ") < EPOCHS

    until(lambda: job(copy, following)["JobState"] == "COMPLETED", seconds=LONG)
    done = job(copy, number)
    assert (done["JobState"], done["Restarts"], done["ExitCode"]) == ("COMPLETED", "1", "0:0"), log.read_text()
    assert_resumed(log.read_text())
    assert "Data and pipelines are up to date." in log_of_next.read_text()
    assert outputs(copy) == undisturbed
    assert unfinished(copy) == []


def test_kubernetes_signals_the_first_process_and_starts_another_pod(copy, undisturbed, tmp_path):
    job = yaml.safe_load((JOBS / "captions-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": container["workingDir"]}]
    if not shutil.which(container["command"][0]):
        pytest.skip(f"needs {container['command'][0]}")
    # In a process namespace, as in a container, the first process gets only the signals that it handles.
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if attempt(tmp_path, *isolated, "true").returncode != 0:
        pytest.skip("needs the right to make a process namespace")
    log = tmp_path / "log"

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        words = [*isolated, *container["command"], *container["args"]]
        with log.open("a") as file:
            process = subprocess.Popen(words, cwd=copy, env=environment(), stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()  # also ends the namespace
            process.wait()

    with running() as process:
        until(lambda: "epoch 3:" in log.read_text(), seconds=LONG)
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM  # Kubernetes would send SIGKILL after 30 seconds
    until(lambda: processes(copy) == [], seconds=LONG)
    assert 3 <= log.read_text().count("\nepoch ") < EPOCHS
    with running() as process:
        assert process.wait() == 0, log.read_text()
    assert_resumed(log.read_text())
    assert outputs(copy) == undisturbed
    assert unfinished(copy) == []
