"""Flickr8k in its original layout: the lists of the three splits, captions, and errors for malformed files."""

import shutil
import zipfile

import pytest

from lib.core.errors import UserError
from lib.core.zips import write_stored_zip
from lib.datasets.loaders import load_flickr8k
from tests import miniature

IMAGES, TEXTS = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    raw = tmp_path_factory.mktemp("flickr8k")
    miniature.write_flickr8k(raw)
    return raw


@pytest.fixture
def raw(original, tmp_path):
    """A copy of the raw folder that a test may change."""
    return shutil.copytree(original, tmp_path / "raw")


def texts(raw) -> dict[str, str]:
    """Return the members of the text zip: `token`, `trainImages`, `devImages`, `testImages`, and others."""
    with zipfile.ZipFile(raw / TEXTS) as archive:
        return {name.split(".")[-2]: archive.read(name).decode() for name in archive.namelist() if "MACOSX" not in name}


def rewrite(raw, **changes):
    """Replace members of the text zip."""
    members = texts(raw) | changes
    with zipfile.ZipFile(raw / TEXTS, "w") as archive:
        for short, text in members.items():
            name = "Flickr8k.token.txt" if short == "token" else f"Flickr_8k.{short}.txt"
            archive.writestr(name, text)


def error(raw) -> str:
    with pytest.raises(UserError) as caught:
        load_flickr8k(raw).checked()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_each_listed_image_has_its_split_member_and_captions(original):
    dataset = load_flickr8k(original).checked()
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert dict(zip(dataset.images["image_id"], dataset.images["split"], strict=True)) == expected
    captions, pictures = dataset.captions.groupby("image_id")["caption"].agg(list), miniature.pictures()
    assert captions.to_dict() == {image_id: pictures[image_id][1] for image_id in expected}
    with zipfile.ZipFile(original / IMAGES) as archive:
        for row in dataset.images.itertuples():
            assert row.archive == IMAGES
            assert archive.read(row.member) == pictures[row.image_id][0]


def test_images_are_found_in_any_folder_of_the_zip_and_it_may_be_missing(raw):
    before = load_flickr8k(raw).images
    (raw / IMAGES).unlink()
    assert load_flickr8k(raw).images.equals(before)
    moved = [member.replace("Flicker8k_Dataset/", "Flickr8k/Images/") for member in before["member"]]
    write_stored_zip(raw / IMAGES, [(member, b"") for member in moved])
    assert load_flickr8k(raw).images["member"].tolist() == moved


def test_windows_line_ends_and_a_missing_last_line_end_are_accepted(raw):
    before = load_flickr8k(raw).checked()
    changed = {short: text.strip().replace("\n", "\r\n") for short, text in texts(raw).items()}
    rewrite(raw, **changed | {"token": "\ufeff" + changed["token"]})
    after = load_flickr8k(raw).checked()
    assert after.images.equals(before.images)
    assert after.captions.equals(before.captions)


def test_a_caption_may_contain_any_character(raw):
    caption = "Ein Hund\u2028im Café \x85 # mit\tTab 🐶 ."
    name = miniature.flickr_name(1)
    rewrite(raw, token=f"{texts(raw)['token']}{name}#5\t{caption}\n")
    captions = load_flickr8k(raw).captions
    assert captions.loc[captions["image_id"] == 1, "caption"].tolist()[-1] == caption


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"token": "1_a.jpg#0 no tab"}, "Flickr8k.token.txt, line 1"),
        ({"token": "\n\n1_a.jpg\tno number"}, "Flickr8k.token.txt, line 3"),
        ({"token": b"1_a.jpg#0\t\xff\n"}, "Flickr8k.token.txt is damaged"),
        ({"token": ""}, "the train split"),
        ({"devImages": ""}, "the val split"),
        ({"devImages": miniature.flickr_name(1)}, "Flickr_8k.devImages.txt, line 1: '1_"),
        ({"devImages": "photo.jpg"}, "Flickr_8k.devImages.txt, line 1: 'photo.jpg'"),
        ({"devImages": f"{'9' * 5000}_a.jpg"}, "Flickr_8k.devImages.txt, line 1: '999"),
        ({"devImages": "../../etc/passwd"}, "Flickr_8k.devImages.txt, line 1: '../../etc/passwd'"),
    ],
)
def test_a_malformed_text_is_named(raw, changes, expected):
    rewrite(raw, **changes)
    assert expected in error(raw)


def test_two_images_with_one_number_are_rejected(raw):
    rewrite(raw, token=f"{texts(raw)['token']}1_twin.jpg#0\tA twin.\n", testImages="1_twin.jpg")
    assert "1 images have the id of another image, such as 1" in error(raw)


def test_a_wrong_zip_is_named(raw):
    with zipfile.ZipFile(raw / TEXTS, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "Flickr_8k.trainImages.txt" in error(raw)
    (raw / TEXTS).write_text("hello")
    assert TEXTS in error(raw)


def test_a_path_in_a_list_is_kept_as_a_name(raw):
    name = "../../../1999_a.jpg"
    rewrite(raw, token=f"{texts(raw)['token']}{name}#0\tA dog.\n", devImages=name)
    images = load_flickr8k(raw).images
    assert images.loc[images["image_id"] == 1999, "member"].tolist() == [f"Flicker8k_Dataset/{name}"]
