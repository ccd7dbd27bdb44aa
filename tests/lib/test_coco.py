"""COCO in both years' layout: Karpathy's split by image id, and what is wrong told in one line."""

import json
import re
import shutil
import zipfile

import pytest

from lib.core.errors import UserError
from lib.core.tables import SPLITS
from lib.datasets import coco
from lib.datasets.annotations import read_coco, read_json
from tests import miniature
from tests.realdata import REALDATA, needs_realdata

REAL = REALDATA / "coco"


@pytest.fixture(scope="module", params=[2014, 2017])
def year(request):
    return request.param


@pytest.fixture(scope="module")
def whole(tmp_path_factory, year):
    raw = tmp_path_factory.mktemp(f"coco{year}")
    miniature.write_coco(raw, year)
    return raw


@pytest.fixture
def raw(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "raw")


def test_the_split_is_karpathys_with_restval_in_train_and_the_unlisted_left_out(whole, year):
    images = coco.load_coco(whole, year).checked().images
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert dict(zip(images["image_id"], images["split"], strict=True)) == expected
    assert images["split"].value_counts().to_dict() == {"train": 28, "val": 4, "test": 4}


def test_every_member_is_in_its_zip_under_its_own_name(whole, year):
    images = coco.load_coco(whole, year).checked().images
    assert set(images["archive"]) == {f"train{year}.zip", f"val{year}.zip"}
    for row in images.itertuples():
        assert row.member == miniature.file_name(row.image_id, year)
        with zipfile.ZipFile(whole / row.archive) as archive:
            assert archive.getinfo(row.member).compress_type == zipfile.ZIP_STORED


def test_each_image_has_its_captions_in_their_order(whole, year):
    dataset = coco.load_coco(whole, year).checked()
    drawn = miniature.pictures()
    captions = dataset.captions.groupby("image_id")["caption"].agg(list)
    assert captions.to_dict() == {image_id: drawn[image_id][1] for image_id in dataset.images["image_id"]}


def test_both_years_are_the_same_data_set_under_other_names(tmp_path):
    tables = []
    for year in (2014, 2017):
        miniature.write_coco(tmp_path / str(year), year)
        tables.append(coco.load_coco(tmp_path / str(year), year).checked())
    assert tables[0].captions.equals(tables[1].captions)
    assert tables[0].images[["image_id", "split"]].equals(tables[1].images[["image_id", "split"]])


def test_the_images_need_not_be_there(raw, year):
    before = coco.load_coco(raw, year).checked()
    (raw / f"train{year}.zip").unlink()
    assert coco.load_coco(raw, year).checked().images.equals(before.images)


def rewrite(raw, name, content):
    """Puts a text, bytes or JSON into a file of `raw`."""
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (raw / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def told(raw, year) -> str:
    with pytest.raises(UserError) as caught:
        coco.load_coco(raw, year).checked()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "not one of Karpathy's lists: {'images': \\[\\]} is not a list"),
        ("[", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([{"caption": "a"}], "'image'"),
        (["text"], "not one of Karpathy's lists"),
        ([{"image": None}], r"row\[0\]: 'image' is None, and should be a text"),
        ([{"image": ["a"]}], "not one of Karpathy's lists"),
        ([{"image": "val2014/photo.jpg"}], "'val2014/photo.jpg' does not end in a number"),
        ([{"image": f"val2014/{'9' * 5000}.jpg"}], "not one of Karpathy's lists"),
        ([{"image": "9" * 1_000_000}], "does not end in a number"),
        (miniature.karpathy_rows("val", 1, []), "puts 1 images into val .* such as 1, which is in train"),
        ([], "no image with a caption is in the val split"),
    ],
)
def test_a_bad_list_is_told(raw, year, content, message):
    rewrite(raw, "coco_karpathy_val.json", content)
    text = told(raw, year)
    assert re.search(message, text), text
    assert "coco_karpathy_val.json" in text or content == []


IMAGE = {"id": 1, "file_name": "a.jpg"}
CAPTION = {"image_id": 1, "caption": "A dog."}


@pytest.mark.parametrize(
    ("images", "rows", "message"),
    [
        ([{**IMAGE, "id": True}], [], "images[0]: 'id' is True, and should be a whole number"),
        ([{**IMAGE, "id": 1.5}], [], "images[0]: 'id' is 1.5, and should be a whole number"),
        ([{**IMAGE, "id": "one"}], [], "images[0]: 'id' is 'one', and should be a whole number"),
        ([{**IMAGE, "id": 2**70}], [], "should be a whole number of 64 bits"),
        ([{**IMAGE, "id": float("inf")}], [], "images[0]: 'id' is inf, and should be a whole number"),
        ([{**IMAGE, "id": None}], [], "images[0]: 'id' is None, and should be a whole number"),
        ([{**IMAGE, "file_name": 3}], [], "images[0]: 'file_name' is 3, and should be a text"),
        ([{"id": 1}], [], "'file_name'"),
        ([IMAGE], [{**CAPTION, "caption": None}], "annotations[0]: 'caption' is None, and should be a text"),
        ([IMAGE], [{**CAPTION, "caption": ["A", "dog"]}], "should be a text"),
        ([IMAGE], [{**CAPTION, "caption": "half a \ud83d pair"}], "'\\ud83d' in it, which is half a character"),
        ([IMAGE], [{**CAPTION, "image_id": [1]}], "'image_id' is [1], and should be a whole number"),
        ([IMAGE], [{"image_id": 1}], "'caption'"),
        ([IMAGE], {"image_id": 1}, "not a COCO captions JSON"),
        (7, [], "not a COCO captions JSON"),
    ],
)
def test_bad_annotations_are_told_with_the_file_that_has_them(raw, year, images, rows, message):
    good = {"images": [], "annotations": []}
    bad = {"images": images, "annotations": rows}
    miniature.write_annotations(raw, year, {f"train{year}": good, f"val{year}": bad})
    text = told(raw, year)
    assert message in text
    assert f"annotations_trainval{year}.zip/annotations/captions_val{year}.json" in text


@pytest.mark.parametrize("content", [[], "text", None, {"images": []}])
def test_annotations_of_another_shape_are_told(raw, year, content):
    miniature.write_annotations(raw, year, {f"train{year}": content})
    assert f"captions_train{year}.json is not a COCO captions JSON" in told(raw, year)


def test_a_zip_without_the_captions_is_told(raw, year):
    miniature.write_annotations(raw, year, {})
    assert f"it lacks annotations/captions_train{year}.json" in told(raw, year)


def test_what_is_no_zip_is_told(raw, year):
    name = f"annotations_trainval{year}.zip"
    rewrite(raw, name, "<html>moved</html>")
    assert f"{name} is not a zip" in told(raw, year)
    (raw / name).unlink()
    assert "No such file" in told(raw, year)


def test_a_missing_list_is_told(raw, year):
    (raw / "coco_karpathy_test.json").unlink()
    assert "cannot read" in told(raw, year)


def test_an_image_that_both_years_parts_name_is_told(raw, year):
    with zipfile.ZipFile(raw / f"annotations_trainval{year}.zip") as archive:
        content = json.loads(archive.read(f"annotations/captions_train{year}.json"))
    miniature.write_annotations(raw, year, {f"train{year}": content, f"val{year}": content})
    assert "twice" in told(raw, year)


def test_a_path_in_a_file_name_is_only_a_name(raw, year):
    """It stands in the table as it is, and is looked up among the zip's own names by whoever reads the image."""
    bad = {"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": [CAPTION]}
    with zipfile.ZipFile(raw / f"annotations_trainval{year}.zip") as archive:
        good = json.loads(archive.read(f"annotations/captions_val{year}.json"))
    miniature.write_annotations(raw, year, {f"train{year}": bad, f"val{year}": good})
    images = coco.load_coco(raw, year).images
    assert images["member"].tolist()[0] == f"train{year}/../../etc/passwd"


@needs_realdata
def test_cocos_own_captions_are_read_whole():
    source = REAL / "captions_val2017.json"
    images, captions = read_coco(read_json(source), source)
    assert (len(images), len(captions)) == (5000, 25014)
    assert images["image_id"].is_unique
    assert set(captions["image_id"]) == set(images["image_id"])


@needs_realdata
def test_karpathys_own_images_make_exactly_his_split(tmp_path):
    listed = {
        split: dict(line.split() for line in (REAL / f"karpathy_{split}_images.txt").read_text().splitlines())
        for split in ("val", "test")
    }
    numbers = {split: {int(image_id) for image_id in images.values()} for split, images in listed.items()}
    assert {split: len(ids) for split, ids in numbers.items()} == {"val": 5000, "test": 5000}
    of_2017 = read_json(REAL / "captions_val2017.json")
    rest = {image["id"] for image in of_2017["images"]} - numbers["val"] - numbers["test"]
    rows = {split: [{"image": name, "caption": ["A."]} for name in images] for split, images in listed.items()}
    rows["train"] = [{"image": f"val2014/COCO_val2014_{i:012d}.jpg", "caption": "A."} for i in rest for _ in range(5)]
    for split in SPLITS:
        (tmp_path / f"coco_karpathy_{split}.json").write_text(json.dumps(rows[split]))
    # The images and captions of train2017 that val and test need, made up; val2017's own.
    others = sorted((numbers["val"] | numbers["test"]) - {image["id"] for image in of_2017["images"]})
    made_up = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in others],
        "annotations": [{"image_id": i, "caption": "A."} for i in others],
    }
    miniature.write_annotations(tmp_path, 2017, {"train2017": made_up, "val2017": of_2017})

    dataset = coco.load_coco(tmp_path, 2017).checked()
    found = dataset.images.groupby("split")["image_id"].agg(set).to_dict()
    assert found == {**numbers, "train": rest}
    of_val2017 = dataset.images[dataset.images["archive"] == "val2017.zip"]
    assert len(of_val2017) == 5000
    assert len(dataset.captions) == 25014 + len(others)
