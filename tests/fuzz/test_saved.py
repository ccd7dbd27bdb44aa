"""Damaged models and feature shards are read, or rejected with a one-line error that names the file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from lib.app.captioner import Captioner
from lib.features.store import Features, shard_path
from tests.fuzz.strategies import corrupted, fuzz, mutated, parse_or_reject
from tests.lib.tiny import write_model

CONFIGS = ["decoder.json", "backbone/backbone.json", "vocabulary.json"]
WEIGHTS = ["decoder.safetensors", "backbone/weights.safetensors"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("fuzz") / "model")


def check(model: Path, name: str, content: bytes) -> None:
    """Change bytes of one file of a model. Check that the model captions an image, or that the error names the file."""
    complete, image = (model / name).read_bytes(), Image.new("RGB", (8, 8))
    try:
        (model / name).write_bytes(content)
        captioner = parse_or_reject(lambda: Captioner.load(model), model)
        if captioner:
            parse_or_reject(lambda: captioner.caption([image], beam_size=1, max_length=2), "features")
    finally:
        (model / name).write_bytes(complete)


@fuzz(name=st.sampled_from(CONFIGS), data=st.data())
def test_a_models_settings(model, name, data):
    check(model, name, json.dumps(data.draw(mutated(json.loads((model / name).read_text())))).encode())


@fuzz(name=st.sampled_from(CONFIGS + WEIGHTS), data=st.data())
def test_a_models_bytes(model, name, data):
    check(model, name, data.draw(corrupted((model / name).read_bytes())))


@fuzz(data=st.data(), rows=st.lists(st.integers(0, 8), min_size=1, max_size=3))
def test_shards(tmp_path_factory, data, rows):
    folder = tmp_path_factory.getbasetemp()
    path = shard_path(folder, 0)
    np.save(path, np.zeros((6, 4, 3), np.float16))
    path.write_bytes(data.draw(corrupted(path.read_bytes())))
    features = parse_or_reject(lambda: Features(folder, pd.DataFrame({"shard": 0, "row": rows})), path)
    if features is not None:
        assert features[:].shape == (len(rows), *features.shape[1:])
        assert features[:].dtype == torch.float16
