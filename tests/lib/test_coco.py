"""COCO in the layout of both years: Karpathy's split by image id, and one-line errors for malformed files."""

import json
import shutil
import zipfile

import pytest

from lib.core.errors import UserError
from lib.core.tables import SPLITS
from lib.datasets.annotations import read_coco, read_json
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
    """A copy that a test may change."""
    return shutil.copytree(original, tmp_path / "raw")


def error(raw, year) -> str:
    with pytest.raises(UserError) as caught:
        load_coco(raw, year).checked()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_split_is_karpathys(original, year):
    images = load_coco(original, year).checked().images
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert dict(zip(images["image_id"], images["split"], strict=True)) == expected
    assert images["split"].value_counts().to_dict() == {"train": 28, "val": 4, "test": 4}


def test_every_member_is_in_its_zip(original, year):
    images = load_coco(original, year).checked().images
    assert set(images["archive"]) == {f"train{year}.zip", f"val{year}.zip"}
    for row in images.itertuples():
        assert row.member == miniature.file_name(row.image_id, year)
        with zipfile.ZipFile(original / row.archive) as archive:
            assert archive.getinfo(row.member).compress_type == zipfile.ZIP_STORED


def test_each_image_has_its_captions_in_order(original, year):
    dataset = load_coco(original, year).checked()
    pictures = miniature.pictures()
    captions = dataset.captions.groupby("image_id")["caption"].agg(list)
    assert captions.to_dict() == {image_id: pictures[image_id][1] for image_id in dataset.images["image_id"]}


def test_both_years_are_the_same_data_set_under_other_names(tmp_path):
    tables = []
    for year in (2014, 2017):
        miniature.write_coco(tmp_path / str(year), year)
        tables.append(load_coco(tmp_path / str(year), year).checked())
    assert tables[0].captions.equals(tables[1].captions)
    assert tables[0].images[["image_id", "split"]].equals(tables[1].images[["image_id", "split"]])


def test_image_zips_are_not_needed(raw, year):
    before = load_coco(raw, year).checked()
    (raw / f"train{year}.zip").unlink()
    assert load_coco(raw, year).checked().images.equals(before.images)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[", "damaged"),
        ("[" * 100_000, "damaged"),
        ({"images": []}, "{'images': []}"),
        (["text"], "rows[0]"),
        ([{"caption": "a"}], "rows[0]['image']"),
        ([{"image": None}], "rows[0]['image']"),
        ([{"image": "val2014/photo.jpg"}], "'val2014/photo.jpg'"),
        ([{"image": f"val2014/{'9' * 5000}.jpg"}], "'val2014/9"),
        ([{"image": "9" * 1_000_000}], "'999"),
        (miniature.karpathy_rows("val", 1, []), "'train2014/"),
    ],
)
def test_a_malformed_list_is_named(raw, year, content, expected):
    text = content if isinstance(content, str) else json.dumps(content)
    (raw / "coco_karpathy_val.json").write_text(text)
    assert "coco_karpathy_val.json" in error(raw, year)
    assert expected in error(raw, year)


def test_an_empty_or_missing_list_is_named(raw, year):
    (raw / "coco_karpathy_val.json").write_text("[]")
    assert "the val split" in error(raw, year)
    (raw / "coco_karpathy_val.json").unlink()
    assert "coco_karpathy_val.json" in error(raw, year)


IMAGE = {"id": 1, "file_name": "a.jpg"}
CAPTION = {"image_id": 1, "caption": "A dog."}


@pytest.mark.parametrize(
    ("images", "captions", "expected"),
    [
        ([{**IMAGE, "id": True}], [], "images[0]['id']"),
        ([{**IMAGE, "id": 1.5}], [], "images[0]['id']"),
        ([{**IMAGE, "id": 2**70}], [], "images[0]['id']"),
        ([{**IMAGE, "id": float("inf")}], [], "images[0]['id']"),
        ([{**IMAGE, "file_name": 3}], [], "images[0]['file_name']"),
        ([{"id": 1}], [], "images[0]['file_name']"),
        ([IMAGE], [{**CAPTION, "caption": None}], "annotations[0]['caption']"),
        ([IMAGE], [CAPTION, {**CAPTION, "caption": "half a \ud83d pair"}], "annotations[1]['caption']"),
        ([IMAGE], [{**CAPTION, "image_id": [1]}], "annotations[0]['image_id']"),
        ([IMAGE], [{"image_id": 1}], "annotations[0]['caption']"),
        ([IMAGE], {"image_id": 1}, "annotations: "),
        (7, [], "images: "),
    ],
)
def test_malformed_annotations_are_named_with_their_file(raw, year, images, captions, expected):
    empty = {"images": [], "annotations": []}
    bad = {"images": images, "annotations": captions}
    miniature.write_annotations(raw, year, {f"train{year}": empty, f"val{year}": bad})
    assert f"annotations_trainval{year}.zip/annotations/captions_val{year}.json" in error(raw, year)
    assert expected in error(raw, year)


@pytest.mark.parametrize("content", [[], "text", None, {"images": []}])
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
    with zipfile.ZipFile(raw / f"annotations_trainval{year}.zip") as archive:
        content = json.loads(archive.read(f"annotations/captions_train{year}.json"))
    miniature.write_annotations(raw, year, {f"train{year}": content, f"val{year}": content})
    assert "image_id" in error(raw, year)


def test_a_path_in_a_file_name_is_kept_as_a_name(raw, year):
    bad = {"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": [CAPTION]}
    with zipfile.ZipFile(raw / f"annotations_trainval{year}.zip") as archive:
        good = json.loads(archive.read(f"annotations/captions_val{year}.json"))
    miniature.write_annotations(raw, year, {f"train{year}": bad, f"val{year}": good})
    assert load_coco(raw, year).images["member"].tolist()[0] == f"train{year}/../../etc/passwd"


@needs_realdata
def test_the_real_captions_of_val2017_are_read():
    source = REAL / "captions_val2017.json"
    images, captions = read_coco(read_json(source), source)
    assert (len(images), len(captions)) == (5000, 25014)
    assert images["image_id"].is_unique
    assert set(captions["image_id"]) == set(images["image_id"])


@needs_realdata
def test_the_real_karpathy_split(tmp_path):
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
    # val2017 is real; images of val and test that are in train2017 get invented captions.
    others = sorted((numbers["val"] | numbers["test"]) - {image["id"] for image in of_2017["images"]})
    invented = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in others],
        "annotations": [{"image_id": i, "caption": "A."} for i in others],
    }
    miniature.write_annotations(tmp_path, 2017, {"train2017": invented, "val2017": of_2017})

    dataset = load_coco(tmp_path, 2017).checked()
    ids = dataset.images.groupby("split")["image_id"].agg(set).to_dict()
    assert ids == {**numbers, "train": rest}
    of_val2017 = dataset.images[dataset.images["archive"] == "val2017.zip"]
    assert len(of_val2017) == 5000
    assert len(dataset.captions) == 25014 + len(others)
