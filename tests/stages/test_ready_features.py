"""Ready features: the DAG runs without a CNN."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.app.captioner import Captioner
from lib.core.errors import UserError
from tests.stages.tiny import STAGES, run


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Run the stages up to captions in the project folder. Return the table of images."""
    run(tmp_path / "run", monkeypatch, STAGES[:2])
    return pd.read_parquet("data/captions/images.parquet")


def source(images: pd.DataFrame, *shape: int) -> Path:
    rng = np.random.default_rng(0)
    np.savez("../clip.npz", **{str(i): rng.normal(size=shape).astype(np.float32) for i in images["image_id"]})
    return Path("../clip.npz")


@pytest.mark.parametrize(("shape", "attention", "pca"), [((7, 12), "additive", None), ((12,), "none", 5)])
def test_the_pipeline_runs_on_ready_features(tmp_path, monkeypatch, images, shape, attention, pca):
    params = {"features.source": str(source(images, *shape)), "model.attention": attention}
    run(tmp_path / "run", monkeypatch, STAGES[2:], **params, **{"features.pca_components": pca})
    assert not list(Path("data").rglob("weights.safetensors"))
    assert len(json.loads(Path("metrics/captions.json").read_text())) == 6
    assert Path("metrics/report/sprites/000.jpg").exists()
    gallery = Path("metrics/report/gallery.js").read_text().splitlines()[2]
    assert json.loads(gallery.removesuffix(","))["attention"] == []  # the positions of the regions are unknown
    assert "clip.npz" in Path("data/model/README.md").read_text()

    captioner = Captioner.load("data/model")
    with np.load("../clip.npz") as features:
        test = np.stack([features[str(i)] for i in images.loc[images["split"] == "test", "image_id"]])
    texts = [beam[0].text for beam in captioner.caption_features(test, beam_size=3, length_penalty=0.7)]
    assert texts == [row["caption"] for row in json.loads(Path("metrics/captions.json").read_text())]
    with pytest.raises(UserError, match=r"features\.source"):
        captioner.caption("photo.jpg")


def test_missing_features_are_counted_as_unreadable_images_are(tmp_path, monkeypatch, images):
    params = {"features.source": str(source(images[1:], 4)), "model.attention": "none"}
    with pytest.raises(UserError, match=r"features\.max_skipped=0\.01: 1 of 36 .* no features in clip\.npz"):
        run(tmp_path / "run", monkeypatch, ["backbone", "features"], **params)
    run(tmp_path / "run", monkeypatch, ["features"], **params, **{"features.max_skipped": 0.5})
    assert pd.read_parquet("data/features/skipped.parquet")["reason"].tolist() == ["no features in clip.npz"]


def test_a_source_that_does_not_exist_is_an_error(tmp_path, monkeypatch, images):
    with pytest.raises(UserError, match=r"features\.source=gone\.npz does not exist"):
        run(tmp_path / "run", monkeypatch, ["backbone"], **{"features.source": "gone.npz"})
