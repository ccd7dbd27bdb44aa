"""Feature extraction into shards by threads and processes, resuming it, features on disk, and PCA."""

import io
import multiprocessing
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.core.errors import UserError
from lib.core.files import link_into
from lib.core.workdir import locked, prune
from lib.core.zips import write_stored_zip
from lib.extraction import extract as extraction
from lib.extraction.extract import ExtractionConfig, extract
from lib.features.pca import PCA, project_shards
from lib.features.store import Features, shard_path, shard_paths
from lib.vision.backbones import override, random_init
from tests.pictures import saved
from tests.stages.imports import ROOT
from tests.waiting import until

IMAGES = 23


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return random_init("small_net")


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A table of images, some of them unreadable, and the folder of their zip. Shards have 5 images."""
    monkeypatch.setattr(extraction, "SHARD_SIZE", 5)
    names = [f"{i}.jpg" for i in range(IMAGES)]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i, name in enumerate(names):
            photo = saved(Image.effect_noise((70, 60), 20 + 5 * i).convert("RGB"), "JPEG")
            archive.writestr(name, b"" if i in (1, 10, 11, 12, 13, 14) else photo)
    return pd.DataFrame({"image_id": range(100, 100 + IMAGES), "archive": "photos.zip", "member": names}), tmp_path


def config(raw, backbone, **changes) -> ExtractionConfig:
    return replace(ExtractionConfig(raw, backbone, kind="grid", precision="float32", batch_size=2), **changes)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def test_features_equal_the_backbones_image_by_image_and_unreadable_images_are_listed(photographs, backbone, tmp_path):
    images, raw = photographs
    made = extract(images, config(raw, backbone), tmp_path / "scratch", 2)
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


def test_missing_shards_are_made_again_with_the_same_bytes_and_the_others_kept(photographs, backbone, tmp_path):
    images, raw = photographs
    made = extract(images, config(raw, backbone), tmp_path / "scratch", 1)
    expected, kept = contents(made.folder), (made.folder / "features-00000.npy").stat()
    for name in ("report-00001.parquet", "report-00003.parquet", "features-00003.npy", "features-00004.npy"):
        (made.folder / name).unlink()
    (made.folder / "features-00003.npy.unfinished").write_bytes(b"half")
    again = extract(images, config(raw, backbone), tmp_path / "scratch", 2)
    assert contents(again.folder) == expected
    assert (made.folder / "features-00000.npy").stat().st_mtime_ns == kept.st_mtime_ns
    pd.testing.assert_frame_equal(again.index, made.index)


def test_several_processes_write_the_same_bytes_and_raise_the_error_of_one(
    photographs, backbone, tmp_path, monkeypatch
):
    images, raw = photographs
    threads = extract(images, config(raw, backbone), tmp_path / "one", 1)
    monkeypatch.setattr(extraction, "_process_count", lambda shards, workers: 2)
    assert contents(extract(images, config(raw, backbone), tmp_path / "two", 2).folder) == contents(threads.folder)
    broken = random_init("small_net")
    with torch.no_grad():
        next(broken.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"small_net .*not finite.*backbone\.weights"):
        extract(images, config(raw, broken), tmp_path / "two", 2)
    assert not multiprocessing.active_children()


def test_a_killed_worker_process_is_a_one_line_error(photographs, backbone, tmp_path, monkeypatch):
    images, raw = photographs
    monkeypatch.setattr(extraction, "_process_count", lambda shards, workers: 2)

    def kill_and_wait(pending, timeout):
        multiprocessing.active_children()[0].kill()
        return wait(pending)

    monkeypatch.setattr(extraction, "wait", kill_and_wait)
    with pytest.raises(UserError, match="CAPTION_WORKERS") as error:
        extract(images, config(raw, backbone), tmp_path / "two", 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_every_image_once(photographs, backbone, tmp_path, monkeypatch, processes):
    images, raw = photographs
    shown: list[tuple[int, int, int]] = []
    monkeypatch.setattr(extraction, "_process_count", lambda shards, workers: processes)
    monkeypatch.setattr(extraction, "_show_progress", lambda counts, *totals: shown.append((sum(counts), *totals)))
    made = extract(images, config(raw, backbone), tmp_path, 2)
    (made.folder / "report-00004.parquet").unlink()
    for _ in range(2):
        extract(images, config(raw, backbone), tmp_path, 2)
    assert shown == [(IMAGES, IMAGES, IMAGES), (3, IMAGES, 3)]


def test_a_second_extraction_of_the_same_shards_waits_and_writes_nothing(photographs, backbone, tmp_path, monkeypatch):
    images, raw = photographs
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    written, write_shard = [], extraction.write_shard

    def write(folder: Path, number: int, *results: Sequence) -> None:
        until(lambda: "waiting for another process" in screen.getvalue(), seconds=300)
        written.append(number)
        write_shard(folder, number, *results)

    monkeypatch.setattr(extraction, "write_shard", write)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(extract, images, config(raw, backbone), tmp_path / "scratch", 1) for _ in range(2)]
    assert made[0].result().folder == made[1].result().folder
    assert written == [0, 1, 2, 3, 4]


EXTRACTION = """
import sys
from pathlib import Path
import pandas as pd
from lib.extraction import extract as extraction
from lib.vision.backbones import Backbone
extraction.SHARD_SIZE = 4
folder = Path(sys.argv[1])
config = extraction.ExtractionConfig(folder, Backbone.load(folder / "backbone"), "grid", "float32", 2)
print(extraction.extract(pd.read_parquet(folder / "images.parquet"), config, folder / sys.argv[2], 2).folder)
"""


def test_a_killed_extraction_keeps_its_complete_shards_and_ends_with_the_same_bytes(photographs, backbone, tmp_path):
    images, raw = photographs
    images = pd.concat([images] * 20).assign(image_id=range(20 * IMAGES))
    images.to_parquet(raw / "images.parquet")
    backbone.save(raw / "backbone")

    def start(scratch: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", EXTRACTION, str(raw), scratch]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    process = start("killed")
    early = until(lambda: sorted((raw / "killed").glob("*/report-*.parquet")), process, seconds=300)
    process.kill()
    process.wait()
    times = [path.stat().st_mtime_ns for path in early]
    resumed, complete = (Path(start(scratch).communicate()[0].strip()) for scratch in ("killed", "complete"))
    left = {name: content for name, content in contents(resumed).items() if not name.endswith(".unfinished")}
    assert left == contents(complete)
    assert len(left) == 2 * 20 * IMAGES / 4
    assert [path.stat().st_mtime_ns for path in early] == times


def test_concurrent_workers_of_a_deep_network_do_not_mix_up_images(photographs, tmp_path):
    images, raw = photographs
    torch.manual_seed(0)
    deep = random_init("mobilenet_v3_small")
    settings = config(raw, replace(deep, preprocess=override(deep.preprocess, size=64, mean=None, std=None)))
    one, many = (extract(images, settings, tmp_path / str(workers), workers) for workers in (1, 4))
    assert contents(one.folder) == contents(many.folder)


def test_all_that_the_features_depend_on_is_in_the_name_of_the_folder(photographs, backbone, tmp_path):
    images, raw = photographs
    (tmp_path / "code.py").write_text("pass")
    variants = [
        (images, config(raw, backbone)),
        (images.iloc[:-1], config(raw, backbone)),
        (images, config(raw, backbone, kind="pooled")),
        (images, config(raw, backbone, precision="bfloat16")),
        (images, config(raw, backbone, batch_size=3)),
        (images, config(raw, random_init("small_net"))),
        (images, config(raw, backbone), [tmp_path / "code.py"]),
    ]
    folders = [extract(table, settings, tmp_path / "scratch", 2, *code).folder for table, settings, *code in variants]
    assert len(set(folders)) == len(folders)


@pytest.fixture
def stored(tmp_path):
    """A folder with shards of 7, 3 and 5 images, their index, and all their features."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * np.array([9, 5, 3, 2, 1, 0.5])[:, None]
    tables = [(rng.normal(size=(n, 4, 6)) @ mixing + 7).astype(np.float16) for n in (7, 3, 5)]
    for number, table in enumerate(tables):
        np.save(shard_path(tmp_path, number), table)
    rows = [(shard, row) for shard, table in enumerate(tables) for row in range(len(table))]
    return tmp_path, pd.DataFrame(rows, columns=["shard", "row"]), np.concatenate(tables)


def test_features_on_disk_are_indexed_like_a_tensor(stored):
    folder, index, whole = stored
    features = Features(folder, index)
    assert (len(features), features.shape) == (15, (15, 4, 6))
    rows = torch.tensor([14, 0, 8, 8, 7])
    assert torch.equal(features[rows], torch.from_numpy(whole)[rows])
    assert torch.equal(torch.cat(list(features.split(4))), torch.from_numpy(whole))
    some = Features(folder, index.iloc[[2, 11, 4]])
    assert torch.equal(some[0:3], torch.from_numpy(whole)[[2, 11, 4]])


def test_pca_equals_the_singular_value_decomposition(stored):
    folder, index, whole = stored
    pca = PCA.fit(Features(folder, index).split(4), 3)
    vectors = whole.reshape(-1, 6).astype(np.float64)
    centred = vectors - vectors.mean(0)
    _, _, expected = np.linalg.svd(centred)
    for ours, theirs in zip(pca.directions.T.double().numpy(), expected[:3], strict=True):
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-6)
        assert ours[np.abs(ours).argmax()] > 0
    coordinates = pca(torch.from_numpy(whole)).reshape(-1, 3).double().numpy()
    assert np.allclose(coordinates, centred @ pca.directions.double().numpy(), atol=1e-3)
    assert np.allclose(np.cov(coordinates.T, bias=True), np.diag(coordinates.var(0)), atol=1e-2)
    with pytest.raises(UserError, match=r"features\.pca_components=7: .*\b6\b"):
        PCA.fit(Features(folder, index).split(4), 7)


def test_projected_shards_are_the_projected_features(stored, tmp_path):
    folder, index, whole = stored
    np.save(shard_path(folder, 3), np.empty((0, 0, 0), np.float16))  # a shard without a readable image
    pca = PCA.fit(Features(folder, index).split(4), 2)
    project_shards(shard_paths(folder), pca, tmp_path / "out")
    pca.save(tmp_path / "out")
    assert len(shard_paths(tmp_path / "out")) == 4
    again = PCA.load(tmp_path / "out")(torch.from_numpy(whole)).half()
    assert torch.equal(Features(tmp_path / "out", index)[0:15], again)


def test_prune_removes_replaced_and_abandoned_folders_and_keeps_what_may_be_resumed(tmp_path):
    hour, days = 3600, 24 * 3600
    ages = {"replaced": 2 * hour, "just finished": 0, "interrupted": 20 * days, "abandoned": 40 * days, "finished": 0}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        if name in ("replaced", "just finished"):
            prune(tmp_path / name)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    prune(tmp_path / "finished")
    assert {path.name for path in tmp_path.iterdir()} == {"finished", "just finished", "interrupted"}


def test_prune_skips_locked_folders_and_those_that_another_process_has_just_removed(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_an_old_file_is_replaced_by_a_link_or_by_a_copy_on_a_disk_without_links(tmp_path, monkeypatch, has_hard_links):
    if not has_hard_links:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError))
    (tmp_path / "a.npy").write_bytes(b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.npy").write_bytes(b"old")
    link_into([tmp_path / "a.npy"], tmp_path / "out")
    assert (tmp_path / "out" / "a.npy").read_bytes() == b"new"
    assert (tmp_path / "out" / "a.npy").samefile(tmp_path / "a.npy") == has_hard_links


def npy(*shape: int, dtype: type = np.float16) -> bytes:
    np.save(buffer := io.BytesIO(), np.zeros(shape, dtype))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ""),
        (b"", ""),
        (b"PK\x03\x04", ""),
        (npy(1, 4, 3)[:-1], ""),
        (npy(0, 4, 3), r".*float16 \(0, 4, 3\)"),
        (npy(1, 4), r".*float16 \(1, 4\)"),
        (npy(1, 4, 3, dtype=float), r".*float64 \(1, 4, 3\)"),
        (npy(1, dtype=object), ""),
    ],
)
def test_a_malformed_shard_is_a_one_line_error(stored, content, message):
    folder, index, _ = stored
    path = shard_path(folder, 1)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=rf"features-00001\.npy{message}") as error:
        Features(folder, index[index["shard"] == 1].head(1))
    assert "\n" not in str(error.value)


def test_shards_of_different_cnns_are_an_error(stored):
    folder, index, _ = stored
    shard_path(folder, 1).write_bytes(npy(3, 4, 5))
    with pytest.raises(UserError, match=r"different CNNs, \(P, C\) = "):
        Features(folder, index)


def test_images_that_were_skipped_are_tried_again_when_pillow_heif_is_installed(tmp_path, monkeypatch):
    write_stored_zip(tmp_path / "a.zip", [("phone", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")])
    table = pd.DataFrame({"image_id": [1], "archive": ["a.zip"], "member": ["phone"]})
    config = extraction.ExtractionConfig(tmp_path, random_init("small_net"), "pooled", "float32", 1)
    folders = set()
    for version in (None, "1.0"):
        monkeypatch.setattr(extraction, "heif_version", lambda version=version: version)
        result = extraction.extract(table, config, tmp_path / "scratch", 1)
        assert len(result.skipped) == 1
        folders.add(result.folder)
    assert len(folders) == 2
