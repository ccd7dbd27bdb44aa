"""Local data sets: both annotation formats, folders and zips, what a stranger may have put there, and what is wrong
told in one line."""

import contextlib
import json
import os
import struct
import tracemalloc
import unicodedata
import zipfile
import zlib

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lib.core.errors import UserError
from lib.core.tables import read_tokens
from lib.core.zips import IMAGE_SUFFIXES, find_members, read_member
from lib.datasets import local
from lib.datasets.annotations import hashed_split
from lib.vision import images

KARPATHY = {
    "images": [
        {"filename": f"{i}.jpg", "imgid": i, "split": split, "sentences": [{"raw": f"Picture {i}."}]}
        for i, split in enumerate(["train", "restval", "val", "test"])
    ]
}
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(300)],
    "annotations": [{"id": i, "image_id": i, "caption": f"Picture {i}."} for i in range(300)],
}


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("0.jpg", "1.jpg", "sub/2.jpg", "3.jpg"):
        Image.new("RGB", (4, 4)).save(images / name)
    (images / "notes.txt").write_text("no image")
    return images


def taken_in(images, annotations, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(annotations if isinstance(annotations, str) else json.dumps(annotations))
    local.import_local(images, captions, tmp_path / "raw")
    return local.load_local(tmp_path / "raw", 1, 0.1, 0.1).checked()


def test_a_karpathy_json_gives_its_own_split_and_restval_counts_as_train(folder, tmp_path):
    dataset = taken_in(folder, KARPATHY, tmp_path)
    assert dataset.images["split"].tolist() == ["train", "train", "val", "test"]
    assert dataset.images["member"].tolist() == ["0.jpg", "1.jpg", "sub/2.jpg", "3.jpg"]
    assert dataset.captions["caption"].tolist() == [f"Picture {i}." for i in range(4)]


def test_cocoid_is_the_image_id_where_there_is_one(folder, tmp_path):
    images = [{**image, "cocoid": 100 - image["imgid"]} for image in KARPATHY["images"]]
    dataset = taken_in(folder, {"images": images}, tmp_path)
    assert dataset.images["image_id"].tolist() == [97, 98, 99, 100]


def test_karpathys_coco_json_names_the_folder_of_each_image(folder, tmp_path):
    (folder / "val2014").mkdir()
    (folder / "2.jpg").write_bytes(b"another of that name")
    (folder / "sub" / "2.jpg").rename(folder / "val2014" / "2.jpg")
    images = [{**image, "filepath": "val2014"} if image["imgid"] == 2 else image for image in KARPATHY["images"]]
    assert taken_in(folder, {"images": images}, tmp_path).images["member"].tolist()[2] == "val2014/2.jpg"


def test_a_coco_json_is_split_by_a_hash_of_the_id(folder, tmp_path):
    dataset = taken_in(folder, COCO, tmp_path)
    shares = dataset.images["split"].value_counts(normalize=True)
    assert 0.05 < shares["val"] < 0.16
    assert 0.05 < shares["test"] < 0.16
    assert dataset.images["split"].tolist() == [hashed_split(i, 1, 0.1, 0.1) for i in range(300)]


def test_a_limit_takes_the_first_of_each_split(folder, tmp_path):
    dataset = taken_in(folder, COCO, tmp_path).first(3)
    assert dataset.images["split"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3}
    assert set(dataset.captions["image_id"]) == set(dataset.images["image_id"])


def test_a_folder_is_packed_into_the_same_bytes_whenever_it_was_copied(folder, tmp_path):
    local.pack_images(folder, tmp_path / "a.zip")
    (folder / "0.jpg").touch()
    local.pack_images(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0.jpg", "1.jpg", "3.jpg", "sub/2.jpg"]


def test_all_kinds_of_pictures_that_are_read_are_packed(tmp_path):
    names = sorted(f"{i}{suffix.upper() if i % 2 else suffix}" for i, suffix in enumerate(IMAGE_SUFFIXES))
    for name in [*names, "notes.txt"]:
        (tmp_path / name).write_bytes(b"")
    local.pack_images(tmp_path, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == names
    assert {Image.registered_extensions()[suffix] for suffix in IMAGE_SUFFIXES} == set(images._FORMATS)


def test_a_users_zip_is_copied_and_stays_as_it_is(folder, tmp_path):
    mine = tmp_path / "mine.zip"
    local.pack_images(folder, mine)
    before = mine.stat().st_mode
    taken_in(mine, KARPATHY, tmp_path)
    copy = tmp_path / "raw" / "images.zip"
    assert copy.read_bytes() == mine.read_bytes()
    assert copy.stat().st_ino != mine.stat().st_ino
    assert mine.stat().st_mode == before


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("{", "is not JSON"),
        ([], "neither a COCO captions JSON nor a Karpathy JSON"),
        ({"images": [{"file_name": "a.jpg"}], "annotations": []}, "not a COCO captions JSON.*'id'"),
        ({"images": [{"filename": "a.jpg", "split": "train", "imgid": 1}]}, "not a Karpathy JSON.*'sentences'"),
        ({"images": [{**KARPATHY["images"][0], "split": "dev"}]}, "'dev'"),
        ({"images": KARPATHY["images"][:2]}, "no image with a caption is in the val split"),
        ({"images": [*KARPATHY["images"], KARPATHY["images"][0]]}, "1 image ids twice, such as 0"),
        (
            {"images": [{**KARPATHY["images"][0], "imgid": 0.5}]},
            r"images\[0\]: 'imgid' is 0\.5, and should be a whole number",
        ),
        (
            {"images": [{**KARPATHY["images"][0], "filename": ["a.jpg"]}]},
            r"images\[0\]: 'filename' is \['a.jpg'\], and should be a text",
        ),
        (
            {"images": [{**KARPATHY["images"][0], "sentences": [{"raw": None}]}]},
            r"images\[0\]: sentences\[0\]: 'raw' is None, and should be a text",
        ),
        ({"images": ["a.jpg"]}, "not a Karpathy JSON"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps(KARPATHY)[:-5], r"captions\.json is not JSON, or not all of it is there"),
        ('{"images": [' + "9" * 5000 + "]}", "value has 5000 digits$"),
        (
            {"images": {"0": KARPATHY["images"][0]}},
            r"captions\.json is not a Karpathy JSON: .* is not a list of images",
        ),
        (
            {"images": [{**KARPATHY["images"][0], "sentences": ["A dog."]}]},
            r"images\[0\]: sentences\[0\]: .* an object",
        ),
        ({"images": [{**KARPATHY["images"][0], "filename": None}]}, "'filename' is None, and should be a text"),
        ({"images": [{**KARPATHY["images"][0], "split": ["train"]}]}, r"'split' is \['train'\], and should be a text"),
        (
            {"images": [{**KARPATHY["images"][0], "imgid": "9" * 5000}]},
            "'imgid' is '9.*9', and should be a whole number",
        ),
        ({"images": [*KARPATHY["images"], {**KARPATHY["images"][3], "imgid": 7}]}, r"1 images whose file .* '3\.jpg'"),
        (COCO | {"images": COCO["images"][:1]}, r"annotations\.json: no image with a caption is in the \w+ split"),
    ],
)
def test_bad_annotations_are_told_in_one_line(folder, tmp_path, annotations, message):
    with pytest.raises(UserError, match=message) as caught:
        taken_in(folder, annotations, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_annotations_is_told_of_the_users_own_file_before_images_are_packed(folder, tmp_path):
    (tmp_path / "mine.json").write_bytes(b'{"images": [{"filename": "caf\xe9.jpg"}]}')
    with pytest.raises(UserError, match=r"mine\.json is not UTF-8"):
        local.import_local(folder, tmp_path / "mine.json", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_as_other_programs_save_them_are_read(folder, tmp_path, encoding):
    (tmp_path / "mine.json").write_bytes(json.dumps(KARPATHY).encode(encoding))
    local.import_local(folder, tmp_path / "mine.json", tmp_path / "raw")
    assert len(local.load_local(tmp_path / "raw", 1, 0.1, 0.1).checked().images) == 4


def test_two_names_that_are_one_file_in_the_zip_are_told(folder, tmp_path):
    images = [{**image, "filename": f"{image['split']}/0.jpg"} for image in KARPATHY["images"]]
    with pytest.raises(UserError, match=r"3 images whose file is another image's too, such as '0\.jpg'"):
        taken_in(folder, {"images": images}, tmp_path)


def test_images_without_captions_and_captions_without_images_are_left_out(folder, tmp_path):
    silent = {"id": 1000, "file_name": "silent.jpg"}
    nobodys = {"image_id": 2000, "caption": "Of no image."}
    content = {"images": [*COCO["images"], silent], "annotations": [*COCO["annotations"], nobodys]}
    dataset = taken_in(folder, content, tmp_path)
    assert set(dataset.images["image_id"]) == set(dataset.captions["image_id"]) == set(range(300))


def test_missing_and_empty_inputs_are_told(tmp_path):
    captions = tmp_path / "c.json"
    captions.write_text(json.dumps(KARPATHY))
    with pytest.raises(UserError, match=r"dataset\.local\.images is .*nowhere, which does not exist"):
        local.import_local(tmp_path / "nowhere", captions, tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image file"):
        local.import_local(tmp_path / "empty", captions, tmp_path / "raw")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        local.import_local(captions, captions, tmp_path / "raw")


@pytest.mark.parametrize(
    ("wanted", "member"),
    [
        ("train/1.jpg", "train/1.jpg"),
        ("1.jpg", "train/1.jpg"),
        ("elsewhere/1.jpg", "train/1.jpg"),
        ("2.jpg", "2.jpg"),  # in two folders: it must be said in which
        ("val/2.jpg", "val/2.jpg"),
        ("3.jpg", "3.jpg"),
        ("elsewhere/3.jpg", "elsewhere/3.jpg"),  # in two folders, one of them the outermost
        ("gone.jpg", "gone.jpg"),
    ],
)
def test_a_member_is_found_by_its_name_or_by_its_file_name_where_that_is_clear(wanted, member):
    names = ["train/", "train/1.jpg", "train/2.jpg", "val/2.jpg", "3.jpg", "val/3.jpg"]
    assert find_members([wanted], names) == [member]


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_member_is_found_whichever_way_its_accents_are_written(form, other):
    names = [unicodedata.normalize(other, name) for name in ("a/é.jpg", "b/é.jpg", "b/ü.jpg")]
    wanted = [unicodedata.normalize(form, name) for name in ("a/é.jpg", "ü.jpg", "c/ü.jpg", "b/é.jpg")]
    assert find_members(wanted, names) == [names[0], names[2], names[2], names[1]]
    both = ["é.jpg", unicodedata.normalize("NFD", "é.jpg")]  # each is its own
    assert find_members(both, both[::-1]) == both


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg", "..", ""])
def test_a_path_in_the_annotations_is_looked_up_in_the_zip_alone(folder, tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"private")
    images = [{**image, "filename": name} if image["imgid"] == 2 else image for image in KARPATHY["images"]]
    member = taken_in(folder, {"images": images}, tmp_path).images["member"].tolist()[2]
    assert member == name
    with zipfile.ZipFile(tmp_path / "raw" / "images.zip") as archive, pytest.raises(KeyError):
        read_member(archive, member, 1000)


def test_a_path_in_a_users_zip_is_never_written_to(folder, tmp_path):
    mine = tmp_path / "mine.zip"
    with zipfile.ZipFile(mine, "w") as archive:
        archive.writestr("../../escaped.jpg", b"0")
    before = set(tmp_path.parent.rglob("*"))
    taken_in(mine, KARPATHY, tmp_path)
    assert {path.name for path in set(tmp_path.parent.rglob("*")) - before} == {
        "captions.json",
        "raw",
        "images.zip",
        "annotations.json",
    }


def test_a_link_that_leads_out_of_the_folder_is_told_and_its_file_not_packed(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("private")
    (folder / "sub" / "photo.jpg").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UserError, match=r"1 files are links to files outside it, such as sub/photo\.jpg"):
        local.pack_images(folder, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_linked_folder_is_not_looked_into(folder, tmp_path):
    (tmp_path / "private").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "private" / "me.jpg")
    (folder / "more").symlink_to(tmp_path / "private")
    local.pack_images(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0.jpg", "1.jpg", "3.jpg", "sub/2.jpg"]


def test_links_within_the_folder_and_to_it_are_followed(folder, tmp_path):
    (folder / "again.jpg").symlink_to("0.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (tmp_path / "link").symlink_to(folder)
    local.pack_images(tmp_path / "link", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0.jpg", "1.jpg", "3.jpg", "again.jpg", "sub/2.jpg"]
        assert archive.read("again.jpg") == (folder / "0.jpg").read_bytes()


def test_a_file_name_that_is_not_utf_8_is_told(folder, tmp_path):
    try:
        (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"0")
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(UserError, match=r"a file's name is not UTF-8: 'caf.*: rename it") as caught:
        local.pack_images(folder, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def bomb(path, size: int, declared: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    """A zip with a member of `size` zeros, which it declares to be `declared` bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jpg", bytes(size))
    content = path.read_bytes()
    for header in (b"PK\x03\x04", b"PK\x01\x02"):  # at the member, and in the list of members at the zip's end
        crc = content.index(header) + (14 if header[2] == 3 else 16)
        sizes = struct.pack("<I", zlib.crc32(bytes(declared))), content[crc + 4 : crc + 8], struct.pack("<I", declared)
        content = content[:crc] + b"".join(sizes) + content[crc + 12 :]
    path.write_bytes(content)


@contextlib.contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # bytes


LIMIT = 100_000


@pytest.mark.parametrize(
    ("size", "declared", "method", "message"),
    [
        (50_000_000, 50_000_000, zipfile.ZIP_DEFLATED, "it holds 50000000 bytes, more than the 100000"),
        (LIMIT + 1, LIMIT + 1, zipfile.ZIP_STORED, "it holds 100001 bytes, more than the 100000"),
        (50_000_000, 100, zipfile.ZIP_BZIP2, "neither stored nor deflated"),
        (50_000_000, 100, zipfile.ZIP_LZMA, "neither stored nor deflated"),
        (100, LIMIT, zipfile.ZIP_DEFLATED, "."),
        (100, LIMIT, zipfile.ZIP_STORED, "."),
    ],
)
def test_a_member_that_is_too_large_or_not_what_it_declares_is_refused(tmp_path, size, declared, method, message):
    bomb(tmp_path / "a.zip", size, declared, method)
    refused = pytest.raises(zipfile.BadZipFile, match=message)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, little_memory(), refused as caught:
        read_member(archive, "a.jpg", LIMIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("declared", [0, 100, LIMIT])
def test_a_member_that_holds_more_than_it_declares_fills_no_memory(tmp_path, declared):
    bomb(tmp_path / "a.zip", 50_000_000, declared)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, little_memory():
        assert read_member(archive, "a.jpg", LIMIT) == bytes(declared)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_up_to_the_limit_is_read_whole(tmp_path, size, method):
    content = os.urandom(size)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.jpg", content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert read_member(archive, "a.jpg", LIMIT) == content
        with pytest.raises(KeyError):
            read_member(archive, "b.jpg", LIMIT)


def test_tokens_are_read_image_by_image_however_the_file_is_cut(tmp_path):
    tokens = [["a", "dog"], [], ["a"], ["two", "dogs"], ["dogs"]] * 9
    ids = [i // 3 for i in range(len(tokens))]
    table = pa.table({"image_id": ids, "tokens": pa.array(tokens, pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "captions.parquet", row_group_size=7)
    read = read_tokens(tmp_path / "captions.parquet", pd.Series([4, 2, 99]))
    assert list(read) == [4, 2, 99]
    assert read == {4: tokens[12:15], 2: tokens[6:9], 99: []}
