"""Data sets that are downloaded by name, end to end. A server on 127.0.0.1 has small versions of them."""

import hashlib
import io
import json
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from lib.core.errors import UserError
from lib.datasets import remote
from lib.fetch.http import fetch
from stages.common.paths import DOWNLOADS
from tests import miniature
from tests.servers import serving
from tests.stages.tiny import STAGES, files, run
from tests.waiting import until

WRITERS = {
    "coco2014": lambda folder: miniature.write_coco(folder, 2014),
    "coco2017": lambda folder: miniature.write_coco(folder, 2017),
    "flickr8k": miniature.write_flickr8k,
}
ARCHIVES = {"train2014.zip", "val2014.zip", "train2017.zip", "val2017.zip", "Flickr8k_Dataset.zip"}


@pytest.fixture
def mirror():
    with serving() as server:
        yield server


def served(name: str, mirror, folder: Path) -> dict:
    """Serve a small version of the data set `name` from `mirror`. Return the params that use it."""
    paths = WRITERS[name](folder / "original")
    for path in paths:
        mirror.serve(f"/{path.name}", path.read_bytes())
    checksums = miniature.write_checksums(paths, folder / "checksums.txt")
    return {
        "dataset.name": name, "dataset.mirror": mirror.url, "dataset.checksums": str(checksums),
        "features.kind": "pooled", "model.attention": "none",
    }  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_downloaded_data_set_runs_through(name, mirror, tmp_path, monkeypatch):
    run(tmp_path / "here", monkeypatch, **served(name, mirror, tmp_path))
    images = pd.read_parquet("data/captions/images.parquet").set_index("image_id")
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert images["split"].to_dict() == expected
    assert len(pd.read_parquet("data/features/images.parquet")) == len(expected)
    results = json.loads(Path("metrics/captions.json").read_text())
    assert [row["image_id"] for row in results] == [i for i, split in expected.items() if split == "test"]
    assert "cider_d" in json.loads(Path("metrics/scores.json").read_text())


def test_a_file_in_dvcs_cache_is_not_downloaded_unless_it_is_damaged(mirror, tmp_path, monkeypatch):
    params = served("coco2014", mirror, tmp_path)
    cache = tmp_path / "cache"
    for path in (tmp_path / "original").iterdir():
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        cached = cache / "files/md5" / digest[:2] / digest[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(b"damaged" if path.name == "val2014.zip" else path.read_bytes())
    monkeypatch.setattr("stages.download.dvc_cache", lambda: cache)
    run(tmp_path / "here", monkeypatch, STAGES[:1], **params)
    assert {request.path for request in mirror.gets()} == {"/val2014.zip"}
    assert files(Path("data/raw")) == files(tmp_path / "original")
    shutil.rmtree("data/raw")
    run(tmp_path / "here", monkeypatch, STAGES[:1], **params)
    assert files(Path("data/raw")) == files(tmp_path / "original")
    assert len(mirror.gets()) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_a_limited_run_downloads_only_its_images_from_the_zip(name, mirror, tmp_path, monkeypatch):
    params = served(name, mirror, tmp_path) | {"dataset.limit": 2}
    run(tmp_path / "few", monkeypatch, STAGES[:4], **params)
    images = pd.read_parquet("data/captions/images.parquet")
    assert images["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}
    assert len(pd.read_parquet("data/features/images.parquet")) == 6
    members = {path.name: set(zipfile.ZipFile(path).namelist()) for path in Path("data/raw").glob("*.zip")}
    for archive, rows in images.groupby("archive"):
        assert members[archive] == set(rows["member"])
    assert all(request.range for request in mirror.gets() if request.path.strip("/") in ARCHIVES)
    limited = files(Path("data/raw"))

    # If the complete zips are there, the result is the same.
    run(tmp_path / "all", monkeypatch, STAGES[:1], **params | {"dataset.limit": None})
    num_requests = len(mirror.requests)
    run(tmp_path / "all", monkeypatch, STAGES[:1], **params)
    assert files(Path("data/raw")) == limited
    assert len(mirror.requests) == num_requests


def test_the_second_of_two_limited_runs_with_one_store_waits_and_downloads_nothing(mirror, tmp_path, monkeypatch):
    params, store = served("coco2014", mirror, tmp_path), tmp_path / "store"
    files = remote.remote_files("coco2014", mirror.url, Path(params["dataset.checksums"]))
    fetch([file for file in files if file.name not in ARCHIVES], store)
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    mirror.pages["/train2014.zip"].before = lambda: until(lambda: "waiting for another process" in screen.getvalue())
    fetch_limited = partial(remote.fetch_dataset, "coco2014", files, limit=2, store=store, cache=None)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(fetch_limited, tmp_path / name) for name in ("one", "other")]:
            done.result()
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one.keys() > {"train2014.zip", "val2014.zip"}
    assert one == other
    requests = [(request.path, request.range) for request in mirror.gets()]
    assert len(requests) == len(set(requests))


def test_a_damaged_zip_on_the_mirror_is_rejected_although_its_md5_is_right(mirror, tmp_path, monkeypatch):
    params = served("coco2014", mirror, tmp_path)
    damaged = tmp_path / "original" / "train2014.zip"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    mirror.serve("/train2014.zip", damaged.read_bytes())
    miniature.write_checksums(sorted((tmp_path / "original").iterdir()), tmp_path / "checksums.txt")
    with pytest.raises(UserError, match=r"train2014\.zip"):
        run(tmp_path / "here", monkeypatch, STAGES[:1], **params)


def test_a_file_with_a_wrong_md5_is_rejected(mirror, tmp_path, monkeypatch):
    params = served("flickr8k", mirror, tmp_path) | {"dataset.checksums": None}
    with pytest.raises(UserError, match=r"(bf6c1abc|f18a1e29).*dataset\.mirror"):
        run(tmp_path / "here", monkeypatch, STAGES[:1], **params)
    assert not [path for path in DOWNLOADS.iterdir() if len(path.name) == 32]  # verified files have their MD5 as name
