"""Every stage end to end on tiny data sets, in this process, without DVC."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file

from lib.app.captioner import Captioner
from lib.core.errors import UserError
from lib.core.tables import read_images, read_tokens
from lib.core.workdir import locked
from lib.features.store import Features
from lib.finetuning.reward import CiderReward
from lib.model.saved import load_decoder
from lib.scoring import METRICS
from lib.search.beam import beam_search
from lib.search.consensus import Consensus
from lib.search.constraints import DecodingConstraints
from stages.common.generation import train_consensus
from stages.common.paths import CAPTION_TABLE, FEATURES, IMAGES
from stages.params import GenerateParams, read_params
from tests.pictures import saved
from tests.stages.imports import ROOT
from tests.stages.tiny import STAGES, files, run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CAPTION_WORKERS", "3")
        yield run(tmp_path_factory.mktemp("scenes"), monkeypatch)


@pytest.fixture
def here(scenes, tmp_path):
    """A copy of the project that a test may change."""
    return shutil.copytree(scenes, tmp_path / "here")


def test_scenes_go_through_to_scores_and_a_page(scenes):
    def read(name: str):
        return json.loads((scenes / "metrics" / name).read_text())

    scores = read("scores.json")
    assert list(scores) == [*METRICS, "truth", "truth_shuffled"]
    assert list(read("scores_val.json")) == list(METRICS)
    images = pd.read_parquet(scenes / "data/captions/images.parquet")
    for name, split in (("captions.json", "test"), ("captions_val.json", "val")):
        assert [row.keys() for row in read(name)] == [{"image_id", "caption"}] * 6
        assert [row["image_id"] for row in read(name)] == images.loc[images["split"] == split, "image_id"].tolist()
    words = " ".join(row["caption"] for row in read("captions.json")).split()
    attention = np.load(scenes / "metrics/attention.npy")
    assert (attention.dtype, len(attention)) == (np.float16, len(words))
    assert attention.sum(axis=1) == pytest.approx(1, abs=0.01)
    each = pd.read_parquet(scenes / "metrics/per_image.parquet")
    assert each["cider_d"].mean() == pytest.approx(scores["cider_d"])
    assert each["true"].mean() == scores["truth"]
    intervals = read("intervals.json")
    assert list(intervals) == list(scores)
    assert all(low <= scores[name] <= high for name, (low, high) in intervals.items() if name.startswith("truth"))
    assert all(low <= high for low, high in intervals.values())
    assert read("statistics.json")["mean_length"] == pytest.approx(each["length"].mean())
    assert each["length"].sum() == len(words)
    curves = pd.read_csv(scenes / "metrics/train/curves.csv")
    assert curves.columns.tolist() == ["epoch", "train_loss", "val_loss", *(f"val_{name}" for name in METRICS)]
    assert read("train/summary.json")["best_epoch"] in curves["epoch"].tolist()
    assert pd.read_csv(scenes / "metrics/train/steps.csv").columns.tolist() == ["step", "train_loss"]
    assert pd.read_csv(scenes / "metrics/finetune/steps.csv").columns.tolist() == ["step", "reward"]


def test_the_captions_are_what_pycocotools_loads(scenes):
    annotations = COCO(str(scenes / "data/raw/captions_test.json"))
    assert len(annotations.loadRes(str(scenes / "metrics/captions.json")).getAnnIds()) == 6


def test_the_page_works_offline_and_shows_the_captions(scenes):
    report = scenes / "metrics/report"
    assert "http" not in (report / "index.html").read_text()
    lines = (report / "gallery.js").read_text().splitlines()[2:-1]
    pictures = [json.loads(line.removesuffix(",")) for line in lines]
    shown = [{"image_id": picture["id"], "caption": " ".join(picture["words"])} for picture in pictures]
    captions = json.loads((scenes / "metrics/captions.json").read_text())
    assert shown == [{**caption, "image_id": str(caption["image_id"])} for caption in captions]
    assert all(len(picture["attention"]) == len(picture["words"]) for picture in pictures)
    assert {path.name for path in report.iterdir()} >= {"curves.png", "bleu.png", "gradients.png", "sprites"}


def test_another_run_with_other_workers_gives_the_same_bytes(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTION_WORKERS", "1")
    first, second = files(scenes), files(run(tmp_path / "again", monkeypatch))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("stage", ["backbone", "features", "train", "finetune"])
def test_a_run_waits_for_another_run_of_the_same_work_in_the_same_scratch_folder(here, monkeypatch, stage):
    """Two experiments may use the same CAPTION_SCRATCH at the same time."""
    tuned = {"backbone.tune.epochs": 1, "backbone.tune.batch_size": 8} if stage == "backbone" else {}
    run(here, monkeypatch, ["backbone"] if tuned else [], **tuned)
    before, environment = files(here), {**os.environ, "PYTHONPATH": str(ROOT)}
    with ExitStack() as other:
        for folder in (here / ".scratch" / stage).iterdir():
            other.enter_context(locked(folder))
        command = [sys.executable, "-m", f"stages.{stage}"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert any("waiting" in line and f".scratch/{stage}" in line for line in process.stderr)
        assert process.poll() is None
    process.communicate()
    assert process.returncode == 0
    assert files(here) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"model.cell": "rnn", "model.attention": "none"},
        {"model.cell": "transformer", "model.embedding": 5, "finetune.epochs": 1, "finetune.batch_size": 8},
        {"model.implementation": "torch", "generate.beam_size": 1},
        {"features.kind": "pooled", "model.attention": "none", "train.label_smoothing": 0.1, "dataset.limit": 5},
        {"features.precision": "bfloat16"},
        {"finetune.epochs": 2, "finetune.batch_size": 8, "finetune.samples": 2},
        {"generate.method": "sample", "generate.sample.top_p": 0.9, "generate.no_repeat_ngram_size": 2},
    ],
)
def test_other_params_go_through_too(tmp_path, monkeypatch, changes):
    run(tmp_path / "other", monkeypatch, **changes)
    assert Path("metrics/scores.json").exists()


def test_an_ensemble_captions_together_and_a_model_that_does_not_fit_is_named(scenes, here, monkeypatch, capsys):
    longer = {"generate.min_length": 5}  # without it, models that are hardly trained generate empty captions
    run(here, monkeypatch, ["train", "finetune", "generate"], **longer, **{"train.seed": 2, "train.epochs": 3})
    before, other = files(here / "metrics"), here / "data/ensemble/first"
    shutil.copytree(scenes / "data/model", other)
    run(here, monkeypatch, ["generate"], **longer)
    assert "6 captions by 2 models" in capsys.readouterr().out
    assert files(here / "metrics")["captions.json"] != before["captions.json"]
    save_file({"mean": torch.zeros(1)}, other / "pca.safetensors")
    with pytest.raises(UserError, match=r"features\.pca_components"):
        run(here, monkeypatch, ["generate"])
    (other / "pca.safetensors").unlink()
    words = json.loads((other / "vocabulary.json").read_text())["words"]
    (other / "vocabulary.json").write_text(json.dumps({"words": words[::-1]}))
    with pytest.raises(UserError, match="data/ensemble/first"):
        run(here, monkeypatch, ["generate"])


def test_a_consensus_chooses_in_the_beam(here, monkeypatch):
    beam, weight = {"generate.beam_size": 5}, {"generate.consensus.neighbours": 3, "generate.consensus.weight": 100.0}
    before = files(run(here, monkeypatch, ["generate"], **beam) / "metrics")
    run(here, monkeypatch, ["generate"], **beam, **weight)
    decoder, vocabulary = load_decoder(Path("data/model"))
    train, test = read_images(IMAGES, "train"), read_images(IMAGES, "test")
    references = list(read_tokens(CAPTION_TABLE, train["image_id"]).values())
    consensus = Consensus(Features(FEATURES, train), CiderReward(references, vocabulary), 3, 100.0)
    features = Features(FEATURES, test)[:]
    beams = consensus.rerank(features, beam_search(decoder, features, 5, 20, 0.7, DecodingConstraints().apply), 0.7)
    captions = [row["caption"] for row in json.loads(Path("metrics/captions.json").read_text())]
    assert captions == [" ".join(vocabulary.decode(best.token_ids)) for best, *_ in beams]
    assert captions != [row["caption"] for row in json.loads(before["captions.json"])]
    with pytest.raises(UserError, match="data/features"):
        train_consensus(read_params(GenerateParams), replace(decoder.config, feature_size=5), vocabulary)


READERS = {
    "backbone": "data/captions/images.parquet data/captions/captions.parquet",
    "features": "data/captions/images.parquet",
    "train": "data/captions/captions.parquet",
    "generate": "data/features/images.parquet",
    "evaluate": "data/features/images.parquet metrics/captions.json",
    "tools.meteor_spice": "metrics/captions.json",
    "gradients": "data/captions/captions.parquet",
    "report": """metrics/per_image.parquet data/features/skipped.parquet metrics/scores.json metrics/train/curves.csv
        metrics/gradients.csv metrics/attention.npy metrics/compare/cell/scores.json metrics/compare/cell/curves.csv
        data/backbone/backbone.json""",
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in READERS for name in READERS[stage].split()])
def test_a_damaged_file_is_named_by_the_stage_that_reads_it(here, monkeypatch, stage, name):
    shutil.copytree(ROOT / "metrics/compare", here / "metrics/compare")
    (here / name).write_bytes(b'<<<<<<< HEAD\n"')
    with pytest.raises(UserError, match=f"^{name} "):
        run(here, monkeypatch, [stage])


@pytest.fixture
def photographs(tmp_path):
    """Params for a zip of photographs (two unreadable) with Karpathy's JSON, and for a weight file of resnet18."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    images = []
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(16):
            photo = saved(Image.effect_noise((40, 50), 20 + i).convert("RGB"), "JPEG")
            if i != 3:
                archive.writestr(f"some/folder/{i}.jpg", b"broken" if i == 4 else photo)
            split = ["train", "train", "restval", "train", "train", "train", "val", "test"][i % 8]
            sentences = [{"raw": f"Noise number {i}."}, {"raw": "A grey picture of noise!"}]
            images.append({"filename": f"{i}.jpg", "imgid": i, "split": split, "sentences": sentences})
    (tmp_path / "captions.json").write_text(json.dumps({"images": images}))
    return {
        "dataset.name": "local", "dataset.local.images": str(tmp_path / "photos.zip"),
        "dataset.local.annotations": str(tmp_path / "captions.json"), "backbone.name": "resnet18",
        "backbone.weights": str(tmp_path / "resnet18.pth"), "backbone.size": 64,
        "features.kind": "pooled", "features.max_skipped": 0.2, "model.attention": "none",
    }  # fmt: skip


def test_local_photographs_go_through_and_unreadable_ones_are_listed(tmp_path, monkeypatch, photographs):
    run(tmp_path / "local", monkeypatch, **photographs)
    skipped = pd.read_parquet("data/features/skipped.parquet")
    assert skipped["image_id"].tolist() == [3, 4]
    assert skipped["reason"].tolist() == ["missing", "not an image"]
    assert len(pd.read_parquet("data/features/images.parquet")) == 14
    assert list(json.loads(Path("metrics/scores.json").read_text())) == list(METRICS)
    assert "2 test images of 16 in total; 2 unreadable" in Path("metrics/report/index.html").read_text()
    assert [row["image_id"] for row in json.loads(Path("metrics/captions.json").read_text())] == [7, 15]
    words = json.loads(Path("data/captions/vocabulary.json").read_text())["words"]
    assert {"noise", "grey"} <= set(words)
    assert "6" not in words  # a word that only captions of val have


def test_too_many_unreadable_images_stop_the_features_stage(tmp_path, monkeypatch, photographs):
    with pytest.raises(UserError, match=r"features\.max_skipped=0\.1: 2 of 16 images"):
        run(tmp_path / "local", monkeypatch, STAGES[:4], **{**photographs, "features.max_skipped": 0.1})


def test_too_many_missing_images_stop_the_captions_stage(tmp_path, monkeypatch, photographs):
    with pytest.raises(UserError, match=r"1 of 16 .*'3\.jpg'.*features\.max_skipped=0\.01"):
        run(tmp_path / "local", monkeypatch, STAGES[:2], **{**photographs, "features.max_skipped": 0.01})


def test_a_network_without_a_grid_cannot_be_fitted_and_no_image_is_read(here, monkeypatch):
    monkeypatch.setattr("stages.backbone.read_pixels", lambda *args, **options: pytest.fail("images are read"))
    with pytest.raises(UserError, match=r"timm/test_vit.*backbone\.size"):
        run(here, monkeypatch, ["backbone"], **{"backbone.name": "timm/test_vit", "backbone.size": 16})


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = run(tmp_path_factory.mktemp("projected"), monkeypatch, **{"features.pca_components": 24})
    assert np.load(folder / "data/features/features-00000.npy", mmap_mode="r").shape == (36, 16, 24)
    return folder


@pytest.mark.parametrize("made", ["scenes", "projected"])
def test_the_model_is_self_contained(made, request, tmp_path):
    folder = request.getfixturevalue(made)
    shutil.copytree(folder / "data/model", tmp_path / "model")
    captioner = Captioner.load(tmp_path / "model")
    written = {row["image_id"]: row["caption"] for row in json.loads((folder / "metrics/captions.json").read_text())}
    with zipfile.ZipFile(folder / "data/raw/images.zip") as archive:
        pictures = [Image.open(archive.open(f"test/{image_id:012d}.jpg")) for image_id in written]
        found = captioner.caption(pictures, beam_size=3, length_penalty=0.7)
    assert [best.text for best, *_ in found] == list(written.values())
