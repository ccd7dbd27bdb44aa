"""Flickr8k as its makers zipped it: the three lists, the captions, and what is wrong told in one line."""

import shutil
import zipfile

import pytest

from lib.core.errors import UserError
from lib.datasets import flickr8k
from tests import miniature


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    raw = tmp_path_factory.mktemp("flickr8k")
    miniature.write_flickr8k(raw)
    return raw


@pytest.fixture
def raw(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "raw")


def rewrite(raw, **texts):
    """Replaces members of the zip of texts: `token`, `trainImages`, `devImages`, `testImages`."""
    with zipfile.ZipFile(raw / flickr8k.TEXTS) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for short, text in texts.items():
        name = "Flickr8k.token.txt" if short == "token" else f"Flickr_8k.{short}.txt"
        members[name] = text if isinstance(text, bytes) else text.encode()
    with zipfile.ZipFile(raw / flickr8k.TEXTS, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def text_of(raw, name) -> str:
    with zipfile.ZipFile(raw / flickr8k.TEXTS) as archive:
        return archive.read(name).decode()


def told(raw) -> str:
    with pytest.raises(UserError) as caught:
        flickr8k.load_flickr8k(raw).checked()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_split_is_that_of_the_lists_and_what_is_in_none_is_left_out(whole):
    dataset = flickr8k.load_flickr8k(whole).checked()
    expected = {i: miniature.split_of(role) for i, role in miniature.roles().items() if role != "unlisted"}
    assert dict(zip(dataset.images["image_id"], dataset.images["split"], strict=True)) == expected
    assert "Some people are here ." not in set(dataset.captions["caption"])


def test_members_and_captions_are_those_of_the_photograph(whole):
    dataset = flickr8k.load_flickr8k(whole).checked()
    drawn = miniature.pictures()
    captions = dataset.captions.groupby("image_id")["caption"].agg(list)
    with zipfile.ZipFile(whole / flickr8k.IMAGES) as archive:
        for row in dataset.images.itertuples():
            assert row.archive == flickr8k.IMAGES
            assert archive.read(row.member) == drawn[row.image_id][0]
            assert captions[row.image_id] == drawn[row.image_id][1]


def test_photographs_are_found_in_whatever_folder_a_zip_has_them(raw):
    before = flickr8k.load_flickr8k(raw).images
    with zipfile.ZipFile(raw / flickr8k.IMAGES, "w") as archive:
        for member in before["member"]:
            archive.writestr(member.replace("Flicker8k_Dataset/", "Flickr8k/Images/"), b"")
    members = flickr8k.load_flickr8k(raw).images["member"]
    assert members.tolist() == [m.replace("Flicker8k_Dataset/", "Flickr8k/Images/") for m in before["member"]]


def test_the_zip_of_images_need_not_be_there(raw):
    before = flickr8k.load_flickr8k(raw).images
    (raw / flickr8k.IMAGES).unlink()
    assert flickr8k.load_flickr8k(raw).images.equals(before)


def test_lines_may_end_as_windows_ends_them_and_a_list_without_a_last_line_end(raw):
    before = flickr8k.load_flickr8k(raw).checked()
    names = {short: text_of(raw, f"Flickr_8k.{short}.txt") for short in ("trainImages", "devImages", "testImages")}
    rewrite(
        raw,
        token=b"\xef\xbb\xbf" + text_of(raw, "Flickr8k.token.txt").replace("\n", "\r\n").encode(),
        **{short: text.strip().replace("\n", "\r\n") for short, text in names.items()},
    )
    after = flickr8k.load_flickr8k(raw).checked()
    assert after.images.equals(before.images)
    assert after.captions.equals(before.captions)


def test_a_caption_may_hold_any_character(raw):
    caption = "Ein Hund\u2028im Café \x85 # mit\tTab 🐶 ."
    name = miniature.flickr_name(1)
    rewrite(raw, token=text_of(raw, "Flickr8k.token.txt") + f"{name}#5\t{caption}\n")
    captions = flickr8k.load_flickr8k(raw).captions
    assert captions.loc[captions["image_id"] == 1, "caption"].tolist()[-1] == caption


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"token": "1_a.jpg#0 no tab"}, "Flickr8k.token.txt, line 1: should be"),
        ({"token": "\n\n1_a.jpg\tno number"}, "Flickr8k.token.txt, line 3: should be"),
        ({"token": b"1_a.jpg#0\t\xff\n"}, "Flickr8k.token.txt is not UTF-8"),
        ({"token": ""}, "no image with a caption is in the train split"),
        ({"devImages": ""}, "no image with a caption is in the val split"),
        ({"devImages": miniature.flickr_name(1)}, "is in the train split already"),
        ({"devImages": "photo.jpg"}, "'photo.jpg', which does not start with a photograph's number"),
        ({"devImages": f"{'9' * 5000}_a.jpg"}, "does not start with a photograph's number"),
        ({"devImages": "../../etc/passwd"}, "does not start with a photograph's number"),
    ],
)
def test_what_is_wrong_in_the_texts_is_told(raw, texts, message):
    rewrite(raw, **texts)
    assert message in told(raw)


def test_two_photographs_of_one_number_are_told(raw):
    token = text_of(raw, "Flickr8k.token.txt")
    rewrite(raw, token=f"{token}1_twin.jpg#0\tA twin.\n", testImages="1_twin.jpg")
    assert "1 image ids twice, such as 1" in told(raw)


def test_a_zip_of_other_things_is_told(raw):
    with zipfile.ZipFile(raw / flickr8k.TEXTS, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "it lacks Flickr_8k.trainImages.txt" in told(raw)
    (raw / flickr8k.TEXTS).write_text("hello")
    assert "is not a zip" in told(raw)


def test_a_path_in_a_list_is_only_a_name(raw):
    name = "../../../1999_a.jpg"
    rewrite(raw, token=text_of(raw, "Flickr8k.token.txt") + f"{name}#0\tA dog.\n", devImages=name)
    images = flickr8k.load_flickr8k(raw).images
    assert images.loc[images["image_id"] == 1999, "member"].tolist() == [f"Flicker8k_Dataset/{name}"]
