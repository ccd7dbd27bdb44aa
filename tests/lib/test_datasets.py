"""Local data sets: both annotation formats, folders and zips, and what is wrong told in one line."""

import json
import zipfile

import pytest
from PIL import Image

from lib.datasets import local
from lib.datasets.annotations import hashed_split
from lib.errors import UserError

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
    local.take_in(images, captions, tmp_path / "raw")
    return local.read(tmp_path / "raw", 1, 0.1, 0.1).checked()


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
    local.pack(folder, tmp_path / "a.zip")
    (folder / "0.jpg").touch()
    local.pack(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0.jpg", "1.jpg", "3.jpg", "sub/2.jpg"]


def test_a_users_zip_is_copied_and_stays_as_it_is(folder, tmp_path):
    mine = tmp_path / "mine.zip"
    local.pack(folder, mine)
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
    ],
)
def test_bad_annotations_are_told_in_one_line(folder, tmp_path, annotations, message):
    with pytest.raises(UserError, match=message) as caught:
        taken_in(folder, annotations, tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_inputs_are_told(tmp_path):
    captions = tmp_path / "c.json"
    captions.write_text(json.dumps(KARPATHY))
    with pytest.raises(UserError, match=r"dataset\.local\.images is .*nowhere, which does not exist"):
        local.take_in(tmp_path / "nowhere", captions, tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image file"):
        local.take_in(tmp_path / "empty", captions, tmp_path / "raw")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        local.take_in(captions, captions, tmp_path / "raw")
