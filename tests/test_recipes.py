"""The recipes of docs/recipes, run: a pipeline that is preempted goes on when its scheduler starts it again."""

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

RECIPES = ROOT / "docs/recipes"
EPOCHS = 150  # long enough to be preempted in the midst


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # whatever cores a job gets: the bytes depend on it
        yield


@pytest.fixture(scope="module")
def project(clone):
    """A project in which the training is the next to run."""
    write_params(clone, **{"train.epochs": EPOCHS, "model.dropout": 0.3})
    return clone


@pytest.fixture
def copy(project, tmp_path):
    return shutil.copytree(project, tmp_path / "copy", symlinks=True)


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory):
    """What comes out when nothing happens."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("undisturbed") / "copy", symlinks=True)
    command(folder, "dvc", "repro")
    return outputs(folder)


@pytest.fixture(scope="module")
def _slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as config, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield


def assert_went_on(said: str) -> None:
    """If what two runs said, one after the other, tells that the second went on where the first one stood."""
    assert said.count("Running stage 'train'") == 2, said
    training = said.partition("Running stage 'finetune'")[0]
    epochs = [int(number) for number in re.findall(r"^epoch (\d+):", training, re.MULTILINE)]
    assert sorted({*epochs}) == list(range(1, EPOCHS + 1))
    assert len(epochs) <= EPOCHS + 1  # the last that was told of may not have been saved yet


def submit(folder: Path, log: Path, *words: str | Path) -> str:
    """Hands in a job; returns its number."""
    return command(folder, "sbatch", "--parsable", f"--output={log}", *map(str, words)).strip()


def job(folder: Path, number: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    return dict(re.findall(r"(\w+)=(\S+)", command(folder, "scontrol", "show", "job", number)))


@needs_slurm
@pytest.mark.usefixtures("_slurm")
def test_slurm_starts_a_preempted_job_again(copy, undisturbed, tmp_path):
    log, log_of_next, urgent = tmp_path / "log", tmp_path / "log-of-next", tmp_path / "urgent"
    number = submit(copy, log, RECIPES / "captions.sbatch")
    following = submit(copy, log_of_next, RECIPES / "captions.sbatch")
    until(lambda: log.exists() and "epoch 3:" in log.read_text(), seconds=LONG)
    assert job(copy, following)["Reason"] == "Dependency"

    # As a GraceTime begins: what srun had started would end, and the job with it, for good.
    command(copy, "scancel", "--signal=TERM", number)
    begun = time.monotonic()
    submit(tmp_path, tmp_path / "log-of-urgent", "--partition=urgent", f"--wrap=touch {urgent}; sleep 3")
    until(urgent.exists, seconds=LONG)
    assert time.monotonic() - begun < KILL_WAIT  # all heard SIGTERM
    until(lambda: processes(copy) == [], seconds=3)
    assert 3 <= log.read_text().count("\nepoch ") < EPOCHS

    until(lambda: job(copy, following)["JobState"] == "COMPLETED", seconds=LONG)
    done = job(copy, number)
    assert (done["JobState"], done["Restarts"], done["ExitCode"]) == ("COMPLETED", "1", "0:0"), log.read_text()
    assert_went_on(log.read_text())
    assert "Data and pipelines are up to date." in log_of_next.read_text()
    assert outputs(copy) == undisturbed
    assert unfinished(copy) == []


def test_kubernetes_signals_the_first_process_and_starts_another_pod(copy, undisturbed, tmp_path):
    job = yaml.safe_load((RECIPES / "captions-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": container["workingDir"]}]
    if not shutil.which(container["command"][0]):
        pytest.skip(f"there is no {container['command'][0]}")
    # A process namespace of its own, as a container has: who is first there gets no signal that it does not ask for.
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if attempt(tmp_path, *isolated, "true").returncode != 0:
        pytest.skip("only who may unshare can make a process namespace")
    log = tmp_path / "log"

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        words = [*isolated, *container["command"], *container["args"]]
        with log.open("a") as said:
            started = subprocess.Popen(words, cwd=copy, env=environment(), stdout=said, stderr=said)
        try:
            yield started
        finally:
            started.kill()  # and with it all that is in there
            started.wait()

    with running() as process:
        until(lambda: "epoch 3:" in log.read_text(), seconds=LONG)
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM  # and not after the 30 seconds until SIGKILL
    until(lambda: processes(copy) == [], seconds=LONG)
    assert 3 <= log.read_text().count("\nepoch ") < EPOCHS
    with running() as process:
        assert process.wait() == 0, log.read_text()
    assert_went_on(log.read_text())
    assert outputs(copy) == undisturbed
    assert unfinished(copy) == []
