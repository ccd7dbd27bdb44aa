"""COCO in the layout of both years: Karpathy's split by image id, and one-line errors for malformed files."""

import json
import shutil
import zipfile

import pytest

from lib.core.errors import UserError
from lib.core.tables import SPLITS
from lib.datasets.annotations import read_annotations, read_json
from lib.datasets.loaders import load_coco
from tests import miniature
from tests.realdata import REALDATA, needs_realdata

REAL = REALDATA / "coco"


@pytest.fixture(scope="module", params=[2014, 2017])
def year(request):
    return request.param


@pytest.fixture(scope="module")
def original(tmp_path_factory, year):
    raw = tmp_path_factory.mktemp(f"coco{year}")
    miniature.write_coco(raw, year)
    return raw


@pytest.fixture
def raw(original, tmp_path):
    """A copy of the raw folder that a test may change."""
    return shutil.copytree(original, tmp_path / "raw")


def error(raw, year) -> str:
    with pytest.raises(UserError) as caught:
        load_coco(raw, year).checked()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_split_is_karpathys_and_each_image_has_its_captions_in_order(original, year):
    dataset = load_coco(original, year).checked()
    images, pictures = dataset.images, miniature.pictures()
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert dict(zip(images["image_id"], images["split"], strict=True)) == expected
    captions = dataset.captions.groupby("image_id")["caption"].agg(list)
    assert captions.to_dict() == {image_id: pictures[image_id][1] for image_id in expected}


def test_every_member_is_in_its_zip(original, year):
    images = load_coco(original, year).checked().images
    assert set(images["archive"]) == {f"train{year}.zip", f"val{year}.zip"}
    for row in images.itertuples():
        assert row.member == miniature.file_name(row.image_id, year)
        with zipfile.ZipFile(original / row.archive) as archive:
            assert archive.getinfo(row.member).compress_type == zipfile.ZIP_STORED


def test_image_zips_are_not_needed(raw, year):
    before = load_coco(raw, year).checked()
    (raw / f"train{year}.zip").unlink()
    assert load_coco(raw, year).checked().images.equals(before.images)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "coco_karpathy_val.json"),
        ("[" * 100_000, "coco_karpathy_val.json is damaged"),
        ("[]", "the val split"),
        ('{"images": []}', "coco_karpathy_val.json is not one of Karpathy's lists: "),
        ('["text"]', "coco_karpathy_val.json is not one of Karpathy's lists: item 1"),
        ('[{"image": null}]', "coco_karpathy_val.json is not one of Karpathy's lists: item 1: `image`"),
        ('[{"image": "val2014/photo.jpg"}]', "coco_karpathy_val.json: the image 'val2014/photo.jpg'"),
        (f'[{{"image": "val2014/{"9" * 5000}.jpg"}}]', "coco_karpathy_val.json: the image 'val2014/9"),
        (f'[{{"image": "{"9" * 1_000_000}"}}]', "coco_karpathy_val.json: the image '999"),
        (json.dumps(miniature.karpathy_rows("val", 1, [])), "coco_karpathy_val.json: the image 'train2014/"),
    ],
)
def test_a_malformed_or_missing_list_is_named(raw, year, content, expected):
    path = raw / "coco_karpathy_val.json"
    path.unlink() if content is None else path.write_text(content)
    assert expected in error(raw, year)


IMAGE = {"id": 1, "file_name": "a.jpg"}
CAPTION = {"image_id": 1, "caption": "A dog."}
EMPTY = {"images": [], "annotations": []}


@pytest.mark.parametrize(
    ("images", "captions", "expected"),
    [
        ([{**IMAGE, "id": True}], [], "images[0]['id']"),
        ([{**IMAGE, "id": {}}], [], "images[0]['id']"),
        ([{**IMAGE, "id": float("inf")}], [], "images[0]['id']"),
        ([{**IMAGE, "file_name": 3}], [], "images[0]['file_name']"),
        ([IMAGE], [{**CAPTION, "caption": None}], "annotations[0]['caption']"),
        ([IMAGE], [CAPTION, {**CAPTION, "caption": "half a \ud83d pair"}], "annotations[1]['caption']"),
        ([IMAGE], [{"image_id": 1}], "annotations[0]['caption']"),
        ([IMAGE], {"image_id": 1}, "`annotations` must"),
        (7, [], "`images` must"),
    ],
)
def test_malformed_annotations_are_named_with_their_file(raw, year, images, captions, expected):
    bad = {"images": images, "annotations": captions}
    miniature.write_annotations(raw, year, {f"train{year}": EMPTY, f"val{year}": bad})
    message = error(raw, year)
    assert f"annotations_trainval{year}.zip/annotations/captions_val{year}.json" in message
    assert expected in message


@pytest.mark.parametrize("content", [[], None, {"images": []}])
def test_other_json_is_rejected(raw, year, content):
    miniature.write_annotations(raw, year, {f"train{year}": content})
    assert f"captions_train{year}.json is not a COCO captions JSON" in error(raw, year)


def test_a_wrong_annotation_zip_is_named(raw, year):
    archive = raw / f"annotations_trainval{year}.zip"
    miniature.write_annotations(raw, year, {})
    assert f"{archive}/annotations/captions_train{year}.json" in error(raw, year)
    archive.write_text("<html>moved</html>")
    assert str(archive) in error(raw, year)
    archive.unlink()
    assert archive.name in error(raw, year)


def test_an_image_in_both_parts_is_rejected(raw, year):
    content = {"images": [IMAGE], "annotations": [CAPTION]}
    miniature.write_annotations(raw, year, {f"train{year}": content, f"val{year}": content})
    assert "1 images have the id of another image, such as 1" in error(raw, year)


def test_a_path_in_a_file_name_is_kept_as_a_name(raw, year):
    content = {"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": [CAPTION]}
    miniature.write_annotations(raw, year, {f"train{year}": content, f"val{year}": EMPTY})
    assert load_coco(raw, year).images["member"].tolist() == [f"train{year}/../../etc/passwd"]


@needs_realdata
def test_the_real_captions_of_val2017_are_read():
    source = REAL / "captions_val2017.json"
    images, captions = read_annotations(source)
    assert (len(images), len(captions)) == (5000, 25014)
    assert images["image_id"].is_unique
    assert set(captions["image_id"]) == set(images["image_id"])


@needs_realdata
def test_the_real_karpathy_split(tmp_path):
    texts = {split: (REAL / f"karpathy_{split}_images.txt").read_text() for split in ("val", "test")}
    listed = {split: dict(line.split() for line in text.splitlines()) for split, text in texts.items()}
    numbers = {split: {int(image_id) for image_id in images.values()} for split, images in listed.items()}
    assert [len(ids) for ids in numbers.values()] == [5000, 5000]
    of_2017 = read_json(REAL / "captions_val2017.json")
    rest = {image["id"] for image in of_2017["images"]} - numbers["val"] - numbers["test"]
    rows = {split: [{"image": name, "caption": ["A."]} for name in images] for split, images in listed.items()}
    rows["train"] = [{"image": f"val2014/COCO_val2014_{i:012d}.jpg", "caption": "A."} for i in rest for _ in range(5)]
    for split in SPLITS:
        (tmp_path / f"coco_karpathy_{split}.json").write_text(json.dumps(rows[split]))
    # The captions of val2017 are real. Images of val and test that are in train2017 get invented captions.
    others = sorted((numbers["val"] | numbers["test"]) - {image["id"] for image in of_2017["images"]})
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in others]
    invented = {"images": images, "annotations": [{"image_id": i, "caption": "A."} for i in others]}
    miniature.write_annotations(tmp_path, 2017, {"train2017": invented, "val2017": of_2017})

    dataset = load_coco(tmp_path, 2017).checked()
    ids = dataset.images.groupby("split")["image_id"].agg(set).to_dict()
    assert ids == {**numbers, "train": rest}
    assert (dataset.images["archive"] == "val2017.zip").sum() == 5000
    assert len(dataset.captions) == 25014 + len(others)
