"""Extraction: shards, resumed and whatever the workers; features left on the disk; principal components."""

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.core.errors import UserError
from lib.core.files import link_into, link_or_copy
from lib.core.workdir import locked, prune
from lib.extraction import extract as extraction
from lib.extraction.extract import ExtractionConfig, extract
from lib.features.pca import PCA, project_shards
from lib.features.store import Features, shard_path, shard_paths
from lib.vision.backbones import for_inference, override, random_init
from tests.pictures import saved
from tests.stages.imports import ROOT
from tests.waiting import until

IMAGES = 23


def for_inference_of(backbone):
    for_inference(backbone.network)
    return backbone


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return for_inference_of(random_init("small_net"))


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A table of images, some unreadable, in shards of 5; and the folder of their zip."""
    monkeypatch.setattr(extraction, "SHARD_SIZE", 5)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(IMAGES):
            photo = saved(Image.effect_noise((70, 60), 20 + 5 * i).convert("RGB"), "JPEG")
            archive.writestr(f"{i}.jpg", b"" if i in (1, 10, 11, 12, 13, 14) else photo)
    members = [f"{i}.jpg" for i in range(IMAGES)]
    return pd.DataFrame({"image_id": range(100, 100 + IMAGES), "archive": "photos.zip", "member": members}), tmp_path


def how(raw, backbone, **changes) -> ExtractionConfig:
    return ExtractionConfig(
        **({"raw": raw, "backbone": backbone, "kind": "grid", "precision": "float32", "batch_size": 2} | changes)
    )


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


def test_features_are_the_backbones_image_by_image_and_the_unreadable_are_listed(photographs, backbone, tmp_path):
    images, raw = photographs
    made = extract(images, how(raw, backbone), tmp_path / "scratch", 2)
    assert made.skipped["image_id"].tolist() == [101, 110, 111, 112, 113, 114]
    assert set(made.skipped["reason"]) == {"empty file"}
    assert sorted([*made.index["image_id"], *made.skipped["image_id"]]) == images["image_id"].tolist()
    features = Features(made.folder, made.index)
    assert features.shape == (IMAGES - 6, 16, 128)
    with zipfile.ZipFile(raw / "photos.zip") as archive:
        for row, image_id in enumerate(made.index["image_id"]):
            pixels = backbone.preprocess.pixels(Image.open(archive.open(f"{image_id - 100}.jpg")))
            expected = backbone.features(torch.from_numpy(pixels.copy())[None], "grid")
            assert torch.allclose(features[row : row + 1].float(), expected, atol=2e-3, rtol=2e-3)


def test_neither_workers_nor_interruptions_change_a_byte(photographs, backbone, tmp_path):
    images, raw = photographs
    whole = extract(images, how(raw, backbone), tmp_path / "one", 1)
    assert contents(extract(images, how(raw, backbone), tmp_path / "three", 3).folder) == contents(whole.folder)

    # As a killed process leaves it: some shards, one of them without its report, and one half written.
    killed = tmp_path / "killed" / whole.folder.name
    shutil.copytree(whole.folder, killed)
    for name in ("report-00001.parquet", "report-00003.parquet", "features-00003.npy", "report-00004.parquet"):
        (killed / name).unlink()
    (killed / "features-00003.npy.unfinished").write_bytes(b"half")
    kept = (killed / "features-00000.npy").stat().st_mtime_ns
    again = extract(images, how(raw, backbone), tmp_path / "killed", 2)
    assert contents(again.folder) == contents(whole.folder)
    assert (killed / "features-00000.npy").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(again.index, whole.index)


EXTRACTING = """
import sys
from pathlib import Path
import pandas as pd
from lib.extraction import extract as extraction
from lib.vision.backbones import Backbone
extraction.SHARD_SIZE = 4
folder = Path(sys.argv[1])
how = extraction.Extraction(folder, Backbone.load(folder / "backbone"), "grid", "float32", 2)
made = extraction.extract(pd.read_parquet(folder / "images.parquet"), how, folder / sys.argv[2], 2)
print(made.folder)
"""


def test_several_processes_make_the_same_bytes_and_tell_what_is_wrong(photographs, backbone, tmp_path, monkeypatch):
    images, raw = photographs
    whole = extract(images, how(raw, backbone), tmp_path / "one", 1)
    monkeypatch.setattr(extraction, "_processes", lambda shards, workers: 2)
    assert contents(extract(images, how(raw, backbone), tmp_path / "two", 2).folder) == contents(whole.folder)

    broken = for_inference_of(random_init("small_net"))
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        extract(images, how(raw, broken), tmp_path / "two", 2)
    assert not multiprocessing.active_children()


def test_a_process_that_is_ended_is_told_of(photographs, backbone, tmp_path, monkeypatch):
    images, raw = photographs
    monkeypatch.setattr(extraction, "_processes", lambda shards, workers: 2)

    def end(pending, timeout):
        multiprocessing.active_children()[0].kill()
        return wait(pending)

    monkeypatch.setattr(extraction, "wait", end)
    with pytest.raises(UserError, match="was ended: is the memory too small"):
        extract(images, how(raw, backbone), tmp_path / "two", 2)


def test_of_two_that_make_the_same_shards_one_waits_and_then_has_nothing_left_to_do(
    photographs, backbone, tmp_path, monkeypatch
):
    images, raw = photographs
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    written, write_shard = [], extraction._write_shard

    def write(folder: Path, number: int, parts: Sequence) -> None:
        until(lambda: "waiting for another process that works in" in screen.getvalue(), seconds=300)
        written.append(number)
        write_shard(folder, number, parts)

    monkeypatch.setattr(extraction, "_write_shard", write)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(extract, images, how(raw, backbone), tmp_path / "scratch", 1) for _ in range(2)]
    assert made[0].result().folder == made[1].result().folder
    assert written == [0, 1, 2, 3, 4]


def test_a_process_that_is_killed_loses_no_whole_shard_and_ends_in_the_same_bytes(photographs, backbone, tmp_path):
    images, raw = photographs
    images = pd.concat([images] * 20).assign(image_id=range(20 * IMAGES))
    images.to_parquet(raw / "images.parquet")
    backbone.save(raw / "backbone")

    def start(scratch: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", EXTRACTING, str(raw), scratch]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    process = start("killed")
    early = until(lambda: sorted((raw / "killed").glob("*/report-*.parquet")), process, seconds=300)
    process.kill()
    process.wait()
    times = [path.stat().st_mtime_ns for path in early]
    folders = []
    for scratch in ("killed", "whole"):
        out, _ = start(scratch).communicate()
        folders.append(Path(out.strip()))
    left = {name: content for name, content in contents(folders[0]).items() if not name.endswith(".unfinished")}
    assert left == contents(folders[1])
    assert len(left) == 2 * 20 * IMAGES / 4
    assert [path.stat().st_mtime_ns for path in early] == times


def test_workers_that_run_a_deep_network_at_once_do_not_mix_up_their_images(photographs, tmp_path):
    images, raw = photographs
    torch.manual_seed(0)
    deep = for_inference_of(random_init("mobilenet_v3_small"))
    settings = how(raw, replace(deep, preprocess=override(deep.preprocess, size=64, mean=None, std=None)))
    one, many = (extract(images, settings, tmp_path / str(workers), workers) for workers in (1, 4))
    assert contents(one.folder) == contents(many.folder)


def test_what_would_change_the_features_has_a_folder_of_its_own(photographs, backbone, tmp_path):
    images, raw = photographs
    other = random_init("small_net")
    variants = [
        (images, how(raw, backbone)),
        (images.iloc[:-1], how(raw, backbone)),
        (images, how(raw, backbone, kind="pooled")),
        (images, how(raw, backbone, precision="bfloat16")),
        (images, how(raw, backbone, batch_size=3)),
        (images, how(raw, for_inference_of(other))),
    ]
    folders = [extract(table, settings, tmp_path / "scratch", 2).folder for table, settings in variants]
    assert len(set(folders)) == len(folders)


def test_weights_that_give_no_numbers_are_told_of(photographs, tmp_path):
    images, raw = photographs
    broken = for_inference_of(random_init("small_net"))
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="small_net gives features that are not numbers"):
        extract(images, how(raw, broken), tmp_path / "scratch", 2)


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * np.array([9, 5, 3, 2, 1, 0.5])[:, None]
    tables = [(rng.normal(size=(n, 4, 6)) @ mixing + 7).astype(np.float16) for n in (7, 3, 5)]
    (tmp_path / "stored").mkdir()
    for number, table in enumerate(tables):
        np.save(shard_path(tmp_path / "stored", number), table)
    rows = [(shard, row) for shard, table in enumerate(tables) for row in range(len(table))]
    return tmp_path / "stored", pd.DataFrame(rows, columns=["shard", "row"]), np.concatenate(tables)


def test_features_on_the_disk_are_indexed_like_a_tensor(stored):
    folder, index, whole = stored
    features = Features(folder, index)
    assert (len(features), features.shape) == (15, (15, 4, 6))
    rows = torch.tensor([14, 0, 8, 8, 7])
    assert torch.equal(features[rows], torch.from_numpy(whole)[rows])
    assert torch.equal(torch.cat(list(features.split(4))), torch.from_numpy(whole))
    some = Features(folder, index.iloc[[2, 11, 4]])
    assert torch.equal(some[0:3], torch.from_numpy(whole)[[2, 11, 4]])


def test_principal_components_are_those_of_the_singular_value_decomposition(stored):
    folder, index, whole = stored
    projection = PCA.fit(Features(folder, index).split(4), 3)
    vectors = whole.reshape(-1, 6).astype(np.float64)
    centred = vectors - vectors.mean(0)
    _, _, expected = np.linalg.svd(centred)
    for ours, theirs in zip(projection.directions.T.double().numpy(), expected[:3], strict=True):
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-6)
        assert ours[np.abs(ours).argmax()] > 0
    coordinates = projection(torch.from_numpy(whole)).reshape(-1, 3).double().numpy()
    assert np.allclose(coordinates, centred @ projection.directions.double().numpy(), atol=1e-3)
    assert np.allclose(np.cov(coordinates.T, bias=True), np.diag(coordinates.var(0)), atol=1e-2)
    with pytest.raises(UserError, match=r"features\.pca_components is 7, but these features have 6 channels"):
        PCA.fit(Features(folder, index).split(4), 7)


def test_shards_are_projected_one_by_one(stored, tmp_path):
    folder, index, whole = stored
    np.save(shard_path(folder, 3), np.empty((0, 0, 0), np.float16))  # a shard of which no image could be read
    projection = PCA.fit(Features(folder, index).split(4), 2)
    project_shards(shard_paths(folder), projection, tmp_path / "out")
    projection.save(tmp_path / "out")
    assert len(shard_paths(tmp_path / "out")) == 4
    again = PCA.load(tmp_path / "out")(torch.from_numpy(whole)).half()
    assert torch.equal(Features(tmp_path / "out", index)[0:15], again)


def test_what_a_finished_task_replaced_is_removed_but_nothing_that_may_be_gone_on_with(tmp_path):
    hour, days = 3600, 24 * 3600
    for name, finished, age in (
        ("replaced", True, 2 * hour),
        ("just finished by another process", True, 0),
        ("interrupted", False, 20 * days),
        ("abandoned", False, 40 * days),
    ):
        (tmp_path / name).mkdir()
        if finished:
            prune(tmp_path / name)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "finished").mkdir()
    prune(tmp_path / "finished")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"finished", "just finished by another process", "interrupted"}


def test_what_has_long_been_worked_in_is_not_removed_nor_what_another_process_has_removed_just_now(
    tmp_path, monkeypatch
):
    folders = [tmp_path / name for name in ("finished", "slow", "replaced")]
    with locked(folders[1]):
        for folder in folders:
            folder.mkdir(exist_ok=True)
            os.utime(folder, (0, 0))
        found = [tmp_path / "gone", *folders]
        monkeypatch.setattr(Path, "iterdir", lambda path: iter(found))
        prune(folders[0])
        monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished", "slow"]


def test_publishing_costs_no_second_copy_and_replaces_what_was_there(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.npy").write_bytes(b"old")
    link_into([tmp_path / "a.npy"], tmp_path / "out")
    assert (tmp_path / "out" / "a.npy").read_bytes() == b"new"
    assert (tmp_path / "out" / "a.npy").samefile(tmp_path / "a.npy")


def test_a_disk_without_hard_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("not here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


INDEX = pd.DataFrame({"shard": [0, 0, 1], "row": [0, 1, 0]})


@pytest.fixture
def shards(tmp_path):
    for number, rows in ((0, 2), (1, 1)):
        np.save(shard_path(tmp_path, number), np.zeros((rows, 4, 3), np.float16))
    assert Features(tmp_path, INDEX).shape == (3, 4, 3)
    return tmp_path


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "there is no features-00001.npy in .*: is that the right folder, and whole"),
        (b"", "features-00001.npy is damaged, or of another version"),
        (b"PK\x03\x04", "features-00001.npy is damaged, or of another version"),
        (np.zeros((0, 4, 3), np.float16), r"holds float16 \(0, 4, 3\), which are no features of 1 images"),
        (np.zeros((1, 4), np.float16), r"holds float16 \(1, 4\), which are no features"),
        (np.zeros((1, 4, 3)), r"holds float64 \(1, 4, 3\), which are no features"),
        (np.zeros((1, 4, 5), np.float16), r"are of different CNNs, \(P, C\) = "),
        (np.array([{}]), "features-00001.npy is damaged"),
    ],
)
def test_a_strange_shard_is_told_of(shards, stored, message):
    path = shard_path(shards, 1)
    if stored is None:
        path.unlink()
    elif isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        np.save(path, stored)
    with pytest.raises(UserError, match=message) as told:
        Features(shards, INDEX)
    assert "\n" not in str(told.value)


def test_a_truncated_shard_is_told_of(shards):
    path = shard_path(shards, 0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"features-00000\.npy is damaged"):
        Features(shards, INDEX)
