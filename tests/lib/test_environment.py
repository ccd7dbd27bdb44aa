"""What the environment chooses, and how a slip in it is told."""

import os

import pytest
import torch

from lib.core.errors import UserError
from lib.core.workers import worker_count, worker_processes
from lib.runtime.device import device


def test_what_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setenv("CAPTION_WORKERS", "3")
    monkeypatch.setenv("CAPTION_DEVICE", "cpu")
    assert (worker_count(), device()) == (3, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CAPTION_DEVICE", "cuda:1")
    assert device() == torch.device("cuda:1")


@pytest.mark.parametrize("asked", ["abc", "0", "-1", "1.5"])
def test_a_number_of_workers_that_is_none_is_told(monkeypatch, asked):
    monkeypatch.setenv("CAPTION_WORKERS", asked)
    with pytest.raises(UserError, match=f"^CAPTION_WORKERS: got '{asked}', should be a number from 1 on$"):
        worker_count()


def test_a_worker_that_is_ended_is_told():
    with (
        pytest.raises(UserError, match="a worker process was ended: is the memory too small"),
        worker_processes(1) as pool,
    ):
        pool.submit(os._exit, 1).result()


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "meta", "1"])
def test_a_device_that_is_none_is_told(monkeypatch, asked):
    monkeypatch.setenv("CAPTION_DEVICE", asked)
    with pytest.raises(UserError, match=f"^CAPTION_DEVICE: got '{asked}', should be cpu, cuda, cuda:1 .* or mps$"):
        device()


@pytest.mark.parametrize(("asked", "count"), [("cuda", 0), ("cuda:2", 2), ("mps", 0)])
def test_a_gpu_that_this_machine_has_not_is_told(monkeypatch, asked, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("CAPTION_DEVICE", asked)
    with pytest.raises(UserError, match=f"^CAPTION_DEVICE: got '{asked}', and torch finds {count or 'no'} such GPU"):
        device()
