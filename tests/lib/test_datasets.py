"""Local data sets: annotation formats, folders and zips, unsafe links, and one-line errors for malformed input."""

import json
import os
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.core.errors import UserError
from lib.core.tables import read_tokens
from lib.datasets import local
from lib.datasets.annotations import draw_splits, hash_fraction

KARPATHY = {
    "images": [
        {"filename": f"{i}.jpg", "imgid": i, "split": split, "sentences": [{"raw": f"Picture {i}."}]}
        for i, split in enumerate(["train", "restval", "val", "test"])
    ]
}
IMAGE = KARPATHY["images"][0]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(300)],
    "annotations": [{"id": i, "image_id": i, "caption": f"Picture {i}."} for i in range(300)],
}


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("0.jpg", "1.jpg", "sub/2.jpg", "3.jpg", "notes.txt"):
        (images / name).write_bytes(name.encode())
    return images


def imported(images, annotations, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(annotations if isinstance(annotations, str) else json.dumps(annotations))
    local.import_local(images, captions, tmp_path / "raw")
    return local.load_local(tmp_path / "raw", 1, 0.1, 0.1)


def import_and_load(images, annotations, tmp_path):
    return imported(images, annotations, tmp_path).dataset.checked()


def packed_names(folder, tmp_path) -> list[str]:
    local.pack_images(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        return archive.namelist()


def error(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_karpathy_json_has_a_split_and_restval_is_train(folder, tmp_path):
    dataset = import_and_load(folder, KARPATHY, tmp_path)
    assert dataset.images["split"].tolist() == ["train", "train", "val", "test"]
    assert dataset.images["member"].tolist() == ["0.jpg", "1.jpg", "sub/2.jpg", "3.jpg"]
    assert dataset.captions["caption"].tolist() == [f"Picture {i}." for i in range(4)]


def test_cocoid_is_the_image_id_and_filepath_the_folder_if_present(folder, tmp_path):
    (folder / "val2014").mkdir()
    (folder / "val2014" / "2.jpg").write_bytes(b"another image with this name")
    folders = [None, "", "val2014", None]
    images = [{**KARPATHY["images"][i], "cocoid": 100 - i, "filepath": folders[i]} for i in range(4)]
    loaded = import_and_load(folder, {"images": images}, tmp_path).images
    assert loaded["image_id"].tolist() == [97, 98, 99, 100]
    assert loaded["member"].tolist() == ["3.jpg", "val2014/2.jpg", "1.jpg", "0.jpg"]


@pytest.fixture
def many(folder):
    for image in COCO["images"]:
        (folder / image["file_name"]).write_bytes(b"")
    return folder


def test_a_coco_json_is_split_by_a_hash_of_the_id(many, tmp_path):
    splits = import_and_load(many, COCO, tmp_path).images["split"]
    shares = splits.value_counts(normalize=True)
    assert all(0.05 < shares[split] < 0.16 for split in ("val", "test"))
    fractions = [hash_fraction(i, 1) for i in range(300)]
    assert splits.tolist() == ["test" if x < 0.1 else "val" if x < 0.2 else "train" for x in fractions]


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("seed", range(5))
def test_each_split_of_a_small_set_has_an_image(count, seed):
    ids = [f"photo {i}.jpg" for i in range(count)]
    splits = draw_splits(ids, seed, 0.1, 0.1)
    assert {"train", "val", "test"} == set(splits)


def test_first_keeps_a_number_of_images_of_each_split(many, tmp_path):
    dataset = import_and_load(many, COCO, tmp_path).first(3)
    assert dataset.images["split"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3}
    assert set(dataset.captions["image_id"]) == set(dataset.images["image_id"])


def test_images_without_captions_and_captions_without_images_are_left_out(many, tmp_path):
    no_captions, no_image = {"id": 1000, "file_name": "x.jpg"}, {"image_id": 2000, "caption": "Of no image."}
    content = {"images": [*COCO["images"], no_captions], "annotations": [*COCO["annotations"], no_image]}
    dataset = import_and_load(many, content, tmp_path)
    assert set(dataset.images["image_id"]) == set(dataset.captions["image_id"]) == set(range(300))


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (json.dumps(KARPATHY)[:-5], "captions.json"),
        ('{"images": [' + "9" * 5000 + "]}", "captions.json"),
        ([], "captions.json is of no known caption format"),
        ({"images": {"0": IMAGE}}, "captions.json is of no known caption format"),
        ({"images": [{}], "annotations": []}, "images[0]['id']"),
        ({"images": [IMAGE, {"filename": "a.jpg", "split": "train", "imgid": 1}]}, "images[1]['sentences']"),
        ({"images": [IMAGE, {**IMAGE, "imgid": 1, "split": "unused"}]}, "images[1]['split']"),
        ({"images": [{**IMAGE, "imgid": [1]}]}, "images[0]['imgid']"),
        ({"images": [{**IMAGE, "sentences": [{"raw": 7}]}]}, "images[0]['sentences'][0]['raw']"),
        ({"images": [*KARPATHY["images"], IMAGE]}, "captions.json: 1 image ids occur more than once, such as 0"),
        ({"images": [*KARPATHY["images"], {**KARPATHY["images"][3], "imgid": 7}]}, "such as '3.jpg'"),
        ({"images": [KARPATHY["images"][1], {**KARPATHY["images"][3], "filename": "1.jpg"}]}, "(in test and train)"),
        ({"images": KARPATHY["images"][:2]}, "captions.json: the val split"),
    ],
)
def test_malformed_annotations_are_rejected(folder, tmp_path, annotations, expected):
    assert expected in error(import_and_load, folder, annotations, tmp_path)


def test_malformed_annotations_are_rejected_before_images_are_packed(folder, tmp_path):
    (tmp_path / "mine.json").write_bytes(b'{"images": [{"filename": "caf\xe9.jpg"}]}')
    assert "mine.json" in error(local.import_local, folder, tmp_path / "mine.json", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_may_have_a_byte_order_mark(folder, tmp_path, encoding):
    (tmp_path / "mine.json").write_bytes(json.dumps(KARPATHY).encode(encoding))
    local.import_local(folder, tmp_path / "mine.json", tmp_path / "raw")
    assert len(local.load_local(tmp_path / "raw", 1, 0.1, 0.1).dataset.checked().images) == 4


def test_missing_and_empty_inputs_are_named(tmp_path):
    captions, raw = tmp_path / "c.json", tmp_path / "raw"
    captions.write_text(json.dumps(KARPATHY))
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "nowhere", tmp_path / "empty", captions):
        assert f"dataset.local.images={source}" in error(local.import_local, source, captions, raw)
    missing = tmp_path / "missing.json"
    assert f"dataset.local.annotations={missing}" in error(local.import_local, tmp_path / "empty", missing, raw)


def test_packing_a_folder_does_not_depend_on_file_times(folder, tmp_path):
    local.pack_images(folder, tmp_path / "before.zip")
    (folder / "0.jpg").touch()
    assert packed_names(folder, tmp_path) == ["0.jpg", "1.jpg", "3.jpg", "sub/2.jpg"]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "before.zip").read_bytes()


def test_files_of_any_name_are_packed_unless_they_are_surely_no_images(tmp_path):
    names = ["0.HEIC", "1.jp2", "2.JPG", "a.jfif", "b.unknown", "scan"]
    for name in [*names, "notes.txt", ".DS_Store", "captions.json"]:
        (tmp_path / name).write_bytes(b"")
    assert packed_names(tmp_path, tmp_path) == names


def test_a_zip_is_copied_and_not_changed(folder, tmp_path):
    mine = tmp_path / "mine.zip"
    local.pack_images(folder, mine)
    mode = mine.stat().st_mode
    import_and_load(mine, KARPATHY, tmp_path)
    assert (tmp_path / "raw" / "images.zip").read_bytes() == mine.read_bytes()
    assert not (tmp_path / "raw" / "images.zip").samefile(mine)
    assert mine.stat().st_mode == mode


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg", ".."])
def test_a_path_in_the_annotations_is_looked_up_in_the_zip_only(folder, tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"private")
    images = [{**image, "filename": name} if image["imgid"] == 2 else image for image in KARPATHY["images"]]
    loaded = imported(folder, {"images": images}, tmp_path)
    assert loaded.missing["file_name"].tolist() == [name]
    member = loaded.dataset.images["member"].tolist()[2]
    with zipfile.ZipFile(tmp_path / "raw" / "images.zip") as archive, pytest.raises(KeyError):
        archive.getinfo(member)


def test_a_path_in_a_zip_is_never_written_to(tmp_path):
    mine = tmp_path / "mine.zip"
    with zipfile.ZipFile(mine, "w") as archive:
        archive.writestr("../../escaped.jpg", b"0")
    before = set(tmp_path.parent.rglob("*"))
    imported(mine, KARPATHY, tmp_path)
    new = set(tmp_path.parent.rglob("*")) - before
    assert {path.parent for path in new} == {tmp_path, tmp_path / "raw"}
    assert not any("escaped" in path.name for path in new)


def test_a_link_to_a_file_outside_the_folder_is_rejected(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("private")
    (folder / "sub" / "photo.jpg").symlink_to(tmp_path / "secret.txt")
    message = error(local.pack_images, folder, tmp_path / "a.zip")
    assert f"dataset.local.images={folder}: " in message
    assert "sub/photo.jpg" in message
    assert not (tmp_path / "a.zip").exists()


def test_links_to_files_in_the_folder_are_followed_and_other_linked_folders_skipped(folder, tmp_path):
    (folder / "again.jpg").symlink_to("0.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "me.jpg").write_bytes(b"private")
    (folder / "more").symlink_to(tmp_path / "private")
    (tmp_path / "link").symlink_to(folder)
    assert packed_names(tmp_path / "link", tmp_path) == ["0.jpg", "1.jpg", "3.jpg", "again.jpg", "sub/2.jpg"]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("again.jpg") == b"0.jpg"


def test_a_file_name_that_is_not_utf_8_is_rejected(folder, tmp_path):
    try:
        (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"0")
    except OSError:
        pytest.skip("this file system refuses such names")
    assert "dataset.local.images" in error(local.pack_images, folder, tmp_path / "a.zip")


def test_tokens_are_read_per_image_across_row_groups(tmp_path):
    tokens = [["a", "dog"], [], ["a"], ["two", "dogs"], ["dogs"]] * 9
    table = pa.table({"image_id": [i // 3 for i in range(45)], "tokens": pa.array(tokens, pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "captions.parquet", row_group_size=7)
    references = read_tokens(tmp_path / "captions.parquet", pd.Series([4, 2, 99]))
    assert list(references) == [4, 2, 99]
    assert references == {4: tokens[12:15], 2: tokens[6:9], 99: []}
