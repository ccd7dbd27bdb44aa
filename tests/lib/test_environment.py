"""Environment variables for workers and device, and errors for malformed values."""

import os

import pytest
import torch

from lib.core.errors import UserError
from lib.core.workers import positive_env, worker_count, worker_processes
from lib.runtime.device import device


def test_the_environment_chooses_workers_and_device(monkeypatch):
    monkeypatch.setenv("CAPTION_WORKERS", "3")
    assert worker_count() == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CAPTION_DEVICE", "cuda:1")
    assert device() == torch.device("cuda:1")


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_a_malformed_number_is_an_error(monkeypatch, value):
    monkeypatch.setenv("CAPTION_WORKERS", value)
    with pytest.raises(UserError, match=f"^CAPTION_WORKERS={value}:"):
        worker_count()
    monkeypatch.setenv("CAPTION_WORKERS", "")
    assert positive_env("CAPTION_WORKERS", 7) == 7


def test_a_killed_worker_is_reported():
    with pytest.raises(UserError, match="CAPTION_WORKERS"), worker_processes(2) as pool:
        pool.submit(os._exit, 1).result()


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "1"])
def test_an_unknown_device_is_an_error(monkeypatch, name):
    monkeypatch.setenv("CAPTION_DEVICE", name)
    with pytest.raises(UserError, match=f"^CAPTION_DEVICE={name}: not a device"):
        device()


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2), ("mps", 0)])
def test_a_missing_gpu_is_an_error(monkeypatch, name, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("CAPTION_DEVICE", name)
    with pytest.raises(UserError, match=f"^CAPTION_DEVICE={name}: torch finds {count}"):
        device()
