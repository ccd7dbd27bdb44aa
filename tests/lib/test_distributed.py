"""Several processes do what one does: nothing left out or done twice; the same numbers, but for the order of sums."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import UserError
from lib.runtime.distributed import all_gather, all_reduce_sum, broadcast_bytes, process_group, shard
from tests.lib.numbers import relative_error
from tests.lib.ranks import BATCHES, DEVICES, WORLDS
from tests.lib.small_training import data
from tests.stages.imports import ROOT

EVERY = [(world, rank) for world in WORLDS for rank in range(world)]
LATE = [("late", rank) for rank in range(2)]
SEVERAL = [(world, rank) for world, rank in EVERY if world > 1]


@pytest.fixture(scope="module", params=DEVICES)
def found(request, tmp_path_factory):
    """What each rank of each world found: tensors by name, and the rest."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "CAPTION_DEVICE": request.param}
    command = [sys.executable, "-m", "tests.lib.ranks", folder]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    names = {(world, rank): folder / f"found-{world}-{rank}" for world, rank in EVERY}
    names |= {(name, rank): folder / f"{name}-{rank}" for name, rank in LATE}
    return {
        which: {**load_file(name.with_suffix(".safetensors")), **json.loads(name.with_suffix(".json").read_text())}
        for which, name in names.items()
    }


@pytest.mark.parametrize("world", WORLDS)
def test_shares_are_the_whole_and_alike(found, world):
    for number, items in enumerate((0, 1, 2, 7, 12)):
        shares = [found[world, rank]["shares"][number] for rank in range(world)]
        assert list(itertools.chain(*shares)) == list(range(items))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world", "rank"), EVERY)
def test_messages_arrive(found, world, rank):
    here = found[world, rank]
    assert here["gathered"] == [list(range(items)) for items in (0, 1, 2, 7)]
    assert (here["from first"], here["nothing from first"]) == ("0", "")
    assert here["copied"].eq(1).all()
    assert torch.equal(here["total"], found[world, 0]["total"])
    assert torch.allclose(here["total"], sum(found[world, other]["own"] for other in range(world)))
    assert torch.equal(here["own"], torch.tensor([0.1, 0.2, 0.7]) * (rank + 1))


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
@pytest.mark.parametrize(
    ("loss", "tolerance"), [("none", 1e-6), ("additive", 1e-6), ("greedy", 1e-12), ("mean", 1e-12)]
)
def test_gradients_of_shared_batches_are_those_of_one_process(found, world, rank, loss, tolerance):
    for number, ((figure, weight), (expected, expected_weight)) in enumerate(
        zip(found[world, rank][loss], found[1, 0][loss], strict=True)
    ):
        ours, theirs = found[world, rank][f"{loss} {number}"], found[1, 0][f"{loss} {number}"]
        assert relative_error(ours, theirs) < tolerance
        assert torch.equal(ours, found[world, 0][f"{loss} {number}"])
        assert figure == pytest.approx(expected, rel=1e-6)
        assert weight == expected_weight


def test_batches_smaller_than_the_world_are_among_them():
    assert sorted(map(len, BATCHES)) == [1, 2, 11]
    assert max(WORLDS) == 3


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
def test_val_and_captions_are_the_very_same(found, world, rank):
    one, here = found[1, 0], found[world, rank]
    same = ("val_loss 1", "val_loss 23", "scores 1", "scores 23", "beam")
    assert [here[name] for name in same] == [one[name] for name in same]
    assert torch.equal(here["looked"], one["looked"])
    assert len(here["beam"]) == len(data().features)
    assert here["the last's first"] == found[world, world - 1]["the last's first"]
    assert len(here["the last's first"]) == 1


@pytest.mark.parametrize(("world", "rank"), SEVERAL)
@pytest.mark.parametrize(("run", "curve"), [("taught", "curve"), ("critical", "critical curve")])
def test_trainings_agree_but_for_the_order_of_sums(found, world, rank, run, curve):
    assert relative_error(found[world, rank][run], found[1, 0][run]) < 1e-5
    for ours, theirs in zip(found[world, rank][curve], found[1, 0][curve], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert torch.equal(found[world, rank][run], found[world, 0][run])
    assert found[world, rank][curve] == found[world, 0][curve]


@pytest.mark.parametrize(("world", "rank"), EVERY)
def test_a_checkpoint_serves_whatever_the_number_of_processes(found, world, rank):
    here = found[world, rank]
    assert torch.equal(here[f"from {world}"], here["taught"])
    assert torch.equal(here["dropout gone on"], here["dropout"])
    for earlier in WORLDS:
        assert relative_error(here[f"from {earlier}"], found[1, 0]["taught"]) < 1e-5


def test_dropout_differs_from_rank_to_rank(found):
    assert relative_error(found[2, 0]["dropout"], found[1, 0]["dropout"]) > 1e-3
    assert torch.equal(found[2, 0]["dropout"], found[2, 1]["dropout"])
    first, second = (found[2, rank]["seeds"] for rank in range(2))
    assert len(first) == len(second) > 0
    assert not set(first) & set(second)


@pytest.mark.parametrize("process", LATE)
def test_the_others_wait_for_the_first_longer_than_a_message_may_take(found, process):
    assert found[process]["arrived"] == 2


def test_a_process_by_itself_sends_nothing():
    tensor = torch.randn(3)
    with process_group():
        assert shard([1, 2, 3]) == [1, 2, 3]
        assert all_reduce_sum(tensor) is tensor
        assert all_gather(tensor) is tensor
        assert broadcast_bytes(b"x") == b"x"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("mps", "cannot share work on mps: set CAPTION_DEVICE=cpu"),
        ("cuda:1", "3 processes cannot share cuda:1: set CAPTION_DEVICE=cuda"),
        ("cuda", "3 processes want a GPU each, and torch finds 2"),
    ],
)
def test_a_device_that_cannot_be_shared_is_told_of(asked, told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "3"), ("CAPTION_DEVICE", asked)):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told), process_group():
        pass
