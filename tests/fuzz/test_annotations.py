"""Malformed annotations give valid tables, or a one-line error that names the file."""

import contextlib
import io
import json
import zipfile

import pandas as pd
import pytest
from hypothesis import strategies as st

from lib.core.tables import SPLITS, write_table
from lib.core.zips import open_zip, read_member
from lib.datasets import local, remote
from lib.datasets.annotations import read_karpathy_lists
from lib.datasets.dataset import Dataset
from lib.datasets.loaders import load_flickr8k
from lib.datasets.sources import read_source
from tests.fuzz.strategies import TEXTS, corrupted, fuzz, mutated, parse_or_reject

NAMES = [f"{split}/{i}.jpg" for split in SPLITS for i in range(2)]
KARPATHY = {
    "images": [
        {"filename": name[-5:], "filepath": name[:-6], "imgid": i, "split": name[:-6], "sentences": [{"raw": "A dog."}]}
        for i, name in enumerate(NAMES)
    ]
}
IDS = [0, 1, 4, 6, 27, 29]  # the hash puts two of these ids into each split
COCO = {
    "images": [{"id": i, "file_name": name} for i, name in zip(IDS, NAMES, strict=True)],
    "annotations": [{"image_id": i, "caption": "A dog."} for i in IDS],
}
KARPATHYS_LIST = [{"image": f"val2014/COCO_val2014_{i:012d}.jpg", "caption": ["A dog."]} for i in range(3)]
LINE = ["10_a.jpg", "11_b.jpg", "10_a.jpg#0\tA dog.", "11_b.jpg#0\t", "\ufeff", "#\t", "1_#2#3\tA\r"]
FLICKR_LINE = st.from_regex(r"[0-9]{1,20}_[a-z]\.jpg(#[0-4]\t.*)?", fullmatch=True)
LINES = st.lists(st.one_of(TEXTS, st.sampled_from(LINE), FLICKR_LINE), max_size=5).map("\n".join)
CHECKSUMS = LINES.map(lambda text: f"{'0' * 32}  {text}".encode(errors="replace"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    with zipfile.ZipFile(folder / local.IMAGES, "w") as archive:
        for name in NAMES:
            archive.writestr(name, b"")
    return folder


def zipped(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.jpg"), b"some bytes", method)
    return buffer.getvalue()


def imported(raw) -> Dataset:
    local.import_local(raw / local.IMAGES, raw / "captions.json", raw / "raw")
    return local.load_local(raw / "raw", 1, 0.2, 0.2).dataset.checked()


JSON = st.one_of(mutated(COCO), mutated(KARPATHY)).map(lambda content: json.dumps(content).encode())
BYTES = corrupted(json.dumps(COCO).encode(), json.dumps(KARPATHY).encode())


@pytest.mark.parametrize("draw", [JSON, BYTES])
@fuzz(data=st.data())
def test_local_annotations(raw, draw, data):
    (raw / "captions.json").write_bytes(data.draw(draw))
    dataset = parse_or_reject(lambda: imported(raw), "captions.json")
    if dataset is not None:
        assert dataset.images["image_id"].is_unique
        assert set(dataset.images["split"]) == set(SPLITS)
        assert set(dataset.captions["image_id"]) == set(dataset.images["image_id"])
        write_table(dataset.images, raw / "images.parquet")
        write_table(dataset.captions, raw / "captions.parquet")


ROWS = [(name, f"A dog, {i}.") for i, name in enumerate(NAMES)]
TABLES = corrupted(
    "".join(f'{name};"{caption}"\r\n' for name, caption in [("image", "caption"), *ROWS]).encode("utf-8-sig"),
    "".join(f"{name}\t{caption}\n" for name, caption in ROWS).encode("utf-16"),
    "".join(f"{name}#0\t{caption}\n" for name, caption in ROWS).encode(),
    "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in ROWS).encode(),
    pd.DataFrame(ROWS, columns=["file_name", "caption"]).to_parquet(),
    zipped(zipfile.ZIP_DEFLATED),
)
CLEAR = st.one_of(
    mutated(
        [
            {"image": name, "image_id": i, "caption": [caption], "split": name[:-6]}
            for i, (name, caption) in enumerate(ROWS)
        ]
    ),
    mutated({"data": [{"image_id": name, "caption_str": caption, "set_name": name[:-6]} for name, caption in ROWS]}),
    mutated({name: [caption] for name, caption in ROWS}),
    mutated([{"id": 1, "data": {"image": NAMES[0]}, "annotations": [{"result": [{"value": {"text": ["A."]}}]}]}]),
).map(lambda content: json.dumps(content).encode())


@fuzz(content=st.one_of(TABLES, CLEAR, st.binary(max_size=50)))
def test_other_formats(raw, content):
    (raw / "captions.json").write_bytes(content)
    annotations = parse_or_reject(lambda: read_source(raw / "captions.json"), "captions.json")
    if annotations is not None:
        assert set(annotations.captions["image_id"]) <= set(annotations.images["image_id"])
        assert set(annotations.images.get("split", ())) <= set(SPLITS)
        write_table(annotations.images, raw / "images.parquet")
        write_table(annotations.captions, raw / "captions.parquet")


@pytest.mark.parametrize("content", [COCO, KARPATHY])
def test_the_unchanged_annotations_are_valid(raw, content):
    (raw / "captions.json").write_text(json.dumps(content))
    assert len(imported(raw).images) == len(NAMES)


@fuzz(content=mutated(KARPATHYS_LIST))
def test_karpathy_lists(raw, content):
    (raw / "list.json").write_text(json.dumps(content))
    splits = parse_or_reject(lambda: read_karpathy_lists({"val": raw / "list.json"}), raw / "list.json")
    assert splits is None or set(splits.values()) <= {"val"}


@fuzz(texts=st.lists(LINES, min_size=4, max_size=4))
def test_flickr8k_texts(raw, texts):
    names = ["Flickr8k.token.txt", *(f"Flickr_8k.{part}Images.txt" for part in ("train", "dev", "test"))]
    with zipfile.ZipFile(raw / "Flickr8k_text.zip", "w") as archive:
        for name, text in zip(names, texts, strict=True):
            archive.writestr(name, text.encode("utf-8", "surrogatepass"))
    dataset = parse_or_reject(lambda: load_flickr8k(raw).checked(), raw / "Flickr8k_text.zip")
    assert dataset is None or dataset.images["image_id"].is_unique


@fuzz(content=st.one_of(st.binary(), CHECKSUMS))
def test_checksums(raw, content):
    (raw / "md5s").write_bytes(content)
    files = parse_or_reject(lambda: remote.remote_files("flickr8k", None, raw / "md5s"), raw / "md5s")
    assert files is None or len(files) == 2


@fuzz(content=corrupted(zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED)))
def test_zips(raw, content):
    path = raw / "corrupted.zip"
    path.write_bytes(content)
    archive = parse_or_reject(lambda: open_zip(path), path)
    for name in archive.namelist() if archive else []:
        with contextlib.suppress(zipfile.BadZipFile):
            assert len(read_member(archive, name, 100_000)) <= 100_000
