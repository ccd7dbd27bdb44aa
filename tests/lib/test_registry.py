"""The addresses and MD5s of the data sets, with the user's mirror and checksums."""

import re

import pytest

from lib.core.errors import UserError
from lib.datasets.loaders import load_named
from lib.datasets.remote import IMAGE_ARCHIVES, remote_files
from tests import miniature

NAMES = ["coco2014", "coco2017", "flickr8k"]
OTHER = "0123456789abcdef" * 2


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_an_address_an_md5_and_a_unique_name(name):
    files = remote_files(name, None, None)
    assert all(re.fullmatch(r"https?://\S+", file.url) and re.fullmatch(r"[0-9a-f]{32}", file.md5) for file in files)
    assert len({file.name for file in files}) == len({file.md5 for file in files}) == len(files)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_that_the_loaders_read(tmp_path, name):
    if name == "flickr8k":
        written = miniature.write_flickr8k(tmp_path)
    else:
        written = miniature.write_coco(tmp_path, int(name.removeprefix("coco")))
    files = {file.name for file in remote_files(name, None, None)}
    assert files == {path.name for path in written}
    assert files & IMAGE_ARCHIVES == set(load_named(name, tmp_path).images["archive"])


@pytest.mark.parametrize("mirror", ["https://example.org/coco", "https://example.org/coco/"])
def test_a_mirror_has_all_files_flat_and_the_same_md5s(mirror):
    official, mirrored = remote_files("coco2014", None, None), remote_files("coco2014", mirror, None)
    assert [file.url for file in mirrored] == [f"https://example.org/coco/{file.name}" for file in official]
    assert [file.md5 for file in mirrored] == [file.md5 for file in official]


def test_checksums_replace_the_md5s_of_the_files_that_they_name(tmp_path):
    checksums = tmp_path / "md5.txt"
    lines = (
        "# of our mirror\n",
        f"{OTHER.upper()}  train2014.zip\r",
        f"{OTHER} *images/val2014.zip",
        f"{OTHER}  a.zip",
    )
    checksums.write_text("\n".join(lines))
    official = {file.name: file.md5 for file in remote_files("coco2014", None, None)}
    files = {file.name: file.md5 for file in remote_files("coco2014", "http://localhost:1", checksums)}
    assert files == {**official, "train2014.zip": OTHER, "val2014.zip": OTHER}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{OTHER}  a.zip\n{OTHER}\n", "line 2"),
        (f"{OTHER}0  a.zip", "line 1"),
        (f"{OTHER[1:]}g  a.zip", "line 1"),
        (f"MD5 (a.zip) = {OTHER}", "line 1"),
        (b"\xff\xfe", "utf-8"),
        (None, "is missing"),
    ],
)
def test_a_malformed_line_is_reported_with_its_file_and_number(tmp_path, content, message):
    checksums = tmp_path / "md5.txt"
    if content is not None:
        checksums.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        remote_files("flickr8k", None, checksums)
    assert checksums.name in str(caught.value)
    assert "\n" not in str(caught.value)
