"""Several processes give the same results as one process, up to rounding, because the order of sums differs."""

import itertools
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import UserError
from lib.runtime.distributed import all_gather, all_reduce_sum, broadcast_bytes, process_group, shard
from tests.lib.numbers import relative_error
from tests.lib.ranks import DEVICES, WORLDS
from tests.lib.small_training import data
from tests.stages.imports import ROOT

EVERY = [(world, rank) for world in WORLDS for rank in range(world)]
LATE = [("late", rank) for rank in range(2)]
SEVERAL = [(world, rank) for world, rank in EVERY if world > 1]


@pytest.fixture(scope="module", params=DEVICES)
def folder(request, tmp_path_factory):
    """Return the folder with the results of `tests.lib.ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "CAPTION_DEVICE": request.param}
    subprocess.run([sys.executable, "-m", "tests.lib.ranks", folder], cwd=ROOT, env=env, check=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Return the results of each process, keyed by (number of processes, rank)."""
    return {
        (world, rank): load_file(folder / f"{world}-{rank}.safetensors")
        | json.loads((folder / f"{world}-{rank}.json").read_text())
        for world, rank in [*EVERY, *LATE]
    }


@pytest.mark.parametrize("world", WORLDS)
def test_shards_are_disjoint_complete_and_of_similar_size(results, world):
    for number, items in enumerate((0, 1, 2, 7, 12)):
        shards = [results[world, rank]["shards"][number] for rank in range(world)]
        assert list(itertools.chain(*shards)) == list(range(items))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("world", "rank"), EVERY)
def test_messages_arrive(results, world, rank):
    here = results[world, rank]
    assert here["gathered"] == [list(range(items)) for items in (0, 1, 2, 7)]
    assert (here["bytes"], here["no bytes"]) == ("0", "")
    assert here["weight"].eq(1).all()
    assert torch.equal(here["total"], results[world, 0]["total"])
    assert torch.allclose(here["total"], sum(results[world, other]["own"] for other in range(world)))
    assert torch.allclose(here["cpu total"], here["total"])
    assert torch.equal(here["own"], torch.tensor([0.1, 0.2, 0.7]) * (rank + 1))


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
@pytest.mark.parametrize(
    ("loss", "tolerance"), [("none", 1e-6), ("additive", 1e-6), ("greedy", 1e-12), ("mean", 1e-12)]
)
def test_gradients_of_sharded_batches_match_one_process(results, world, rank, loss, tolerance):
    here, one = results[world, rank], results[1, 0]
    for number, (ours, theirs) in enumerate(zip(here[loss], one[loss], strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-6)  # each is (metric, weight)
        assert relative_error(here[f"{loss} {number}"], one[f"{loss} {number}"]) < tolerance
        assert torch.equal(here[f"{loss} {number}"], results[world, 0][f"{loss} {number}"])


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
def test_val_metrics_and_captions_are_identical(results, world, rank):
    one, here = results[1, 0], results[world, rank]
    same = ("val_loss 1", "val_loss 23", "scores 1", "scores 23", "beam")
    assert [here[name] for name in same] == [one[name] for name in same]
    assert torch.equal(here["attention"], one["attention"])
    assert len(here["beam"]) == len(data().features)
    assert here["of the last rank"] == results[world, world - 1]["of the last rank"] != []


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
@pytest.mark.parametrize(("run", "curve"), [("trained", "curve"), ("self-critical", "self-critical curve")])
def test_training_agrees_up_to_the_order_of_sums(results, world, rank, run, curve):
    here, one, first = results[world, rank], results[1, 0], results[world, 0]
    assert relative_error(here[run], one[run]) < 1e-5
    for ours, theirs in zip(here[curve], one[curve], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert torch.equal(here[run], first[run])
    assert here[curve] == first[curve]


def test_only_the_main_process_writes_the_curves_and_they_agree(folder):
    steps = {world: pd.read_csv(folder / f"curves-{world}-0/steps.csv") for world in WORLDS}
    for world, rank in SEVERAL:
        assert (folder / f"curves-{world}-{rank}").exists() == (rank == 0)
        pd.testing.assert_frame_equal(steps[world], steps[1], rtol=1e-4)


@pytest.mark.parametrize(("world", "rank"), EVERY)
def test_a_checkpoint_does_not_depend_on_the_number_of_processes(results, world, rank):
    here = results[world, rank]
    assert torch.equal(here[f"from {world}"], here["trained"])
    assert torch.equal(here["dropout resumed"], here["dropout"])
    for earlier in WORLDS:
        assert relative_error(here[f"from {earlier}"], results[1, 0]["trained"]) < 1e-5


def test_dropout_differs_from_rank_to_rank(results):
    assert relative_error(results[2, 0]["dropout"], results[1, 0]["dropout"]) > 1e-3
    assert torch.equal(results[2, 0]["dropout"], results[2, 1]["dropout"])
    first, second = (results[2, rank]["seeds"] for rank in range(2))
    assert len(first) == len(second) > 0
    assert not set(first) & set(second)


@pytest.mark.parametrize("process", LATE)
def test_a_barrier_waits_longer_than_a_message_may_take(results, process):
    assert results[process]["arrived"] == 2


def test_a_single_process_sends_nothing():
    tensor = torch.randn(3)
    with process_group():
        assert shard([1, 2, 3]) == [1, 2, 3]
        assert all_reduce_sum(tensor) is tensor
        assert all_gather(tensor) is tensor
        assert broadcast_bytes(b"x") == b"x"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("name", "message"),
    [("mps", "cannot share it"), ("cuda:1", "3 processes need a GPU each"), ("cuda", "torch finds 2")],
)
def test_a_device_that_cannot_be_shared_is_an_error(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    variables = {"WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "CAPTION_DEVICE": name}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^CAPTION_DEVICE={name}: .*{message}"), process_group():
        pass
