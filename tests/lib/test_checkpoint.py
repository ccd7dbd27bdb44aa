"""Checkpoints: a training that is killed at any moment, and started again, ends in the same weights."""

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

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("how", ["cross-entropy", "self-critical"])
def test_killed_again_and_again_it_ends_in_the_same_weights(tmp_path, how):
    # A server imports torch once, and forks each of these processes, which are killed like any other.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([small_training.__name__])
    checkpoint = tmp_path / "checkpoint"

    def started(checkpoint: Path | None, result: str) -> BaseProcess:
        process = forks.Process(target=small_training.train, args=(how, checkpoint, tmp_path / result))
        process.start()
        return process

    def finish(checkpoint: Path | None, result: str) -> None:
        process = started(checkpoint, result)
        process.join()
        assert process.exitcode == 0

    def written() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    finish(None, "expected")
    moments, at_work = random.Random(0), 0
    for _ in range(9):
        before, process = written(), started(checkpoint, "result")
        # Not before it has gone on by a few batches, or it might be killed at its start for ever.
        began = time.monotonic()
        for _ in range(moments.randint(2, 5)):
            while process.is_alive() and written() == before:
                time.sleep(0.001)
            began, step, before = time.monotonic(), time.monotonic() - began, written()
        time.sleep(moments.uniform(0, step))
        process.kill()
        process.join()
        at_work += process.exitcode == -signal.SIGKILL
    finish(checkpoint, "result")
    assert at_work >= 2
    assert (tmp_path / "result").read_bytes() == (tmp_path / "expected").read_bytes()


def test_what_was_saved_comes_back(tmp_path):
    shared = torch.randn(3, 4)
    save_checkpoint(tmp_path / "c", {"a": {"w.x": shared, "n": torch.tensor(3)}, "b": {"w": shared.T}}, [{"epoch": 1}])
    parts, position = load_checkpoint(tmp_path / "c", CPU)
    assert position == [{"epoch": 1}]
    assert torch.equal(parts["a"]["w.x"], shared)
    assert parts["a"]["n"].item() == 3
    assert torch.equal(parts["b"]["w"], shared.T)


@pytest.mark.parametrize("kept", [1, 5, 100])
def test_a_damaged_checkpoint_is_told_of_and_left(tmp_path, capsys, kept):
    save_checkpoint(tmp_path / "c", {"a": {"w": torch.randn(3, 4)}}, None)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:kept])
    assert load_checkpoint(tmp_path / "c", CPU) is None
    assert "damaged" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "absent", CPU) is None
