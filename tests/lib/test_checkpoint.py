"""Checkpoints: training that is killed at any moment and resumed ends in the same weights."""

import multiprocessing
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from lib.optim.checkpoint import load_checkpoint, save_checkpoint
from tests.lib import small_training
from tests.stages.tiny import files


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("objective", ["cross-entropy", "self-critical"])
def test_training_killed_many_times_ends_in_the_same_weights(tmp_path, objective):
    # A server imports torch once and forks each of these processes.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([small_training.__name__])
    checkpoint = tmp_path / "checkpoint.pt"

    def start(checkpoint: Path | None, result: str) -> BaseProcess:
        process = context.Process(target=small_training.train, args=(objective, checkpoint, tmp_path / result))
        process.start()
        return process

    def finish(process: BaseProcess) -> None:
        process.join()
        assert process.exitcode == 0

    def saved_at() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    finish(start(None, "expected"))
    rng, killed = random.Random(0), 0
    for _ in range(9):
        before, process = saved_at(), start(checkpoint, "result")
        # Let the process save a few checkpoints first. Otherwise every run might be killed at its start.
        step_start = time.monotonic()
        for _ in range(rng.randint(2, 5)):
            while process.is_alive() and saved_at() == before:
                time.sleep(0.001)
            step_start, step, before = time.monotonic(), time.monotonic() - step_start, saved_at()
        time.sleep(rng.uniform(0, step))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    finish(start(checkpoint, "result"))
    assert killed >= 2
    assert files(tmp_path / "result") == files(tmp_path / "expected")
    assert files(tmp_path / "result").keys() == {"weights", "curves.csv", "steps.csv", "summary.json"}


@pytest.mark.parametrize("length", [1, 5, 100, -1])
def test_a_damaged_checkpoint_is_reported_and_ignored(tmp_path, capsys, length):
    path = tmp_path / "checkpoint.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"w": torch.randn(3, 4)})
    path.write_bytes(path.read_bytes()[:length])
    assert load_checkpoint(path) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert str(path) in line
