"""Where the data sets' files are, with a mirror and checksums of one's own."""

import re

import pytest

from lib.core.errors import UserError
from lib.datasets import coco, flickr8k
from lib.datasets.registry import IMAGE_ARCHIVES, remote_files
from tests import miniature

NAMES = ["coco2014", "coco2017", "flickr8k"]
OTHER = "0123456789abcdef" * 2


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_an_address_a_whole_md5_and_a_name_of_its_own(name):
    found = remote_files(name, None, None)
    assert all(re.fullmatch(r"https?://\S+", file.url) and re.fullmatch(r"[0-9a-f]{32}", file.digest) for file in found)
    assert {file.algorithm for file in found} == {"md5"}
    assert len({file.name for file in found}) == len({file.digest for file in found}) == len(found)


def test_the_files_are_those_that_the_readers_read(tmp_path):
    for name, written, read in [
        ("coco2014", miniature.write_coco(tmp_path / "14", 2014), coco.load_coco(tmp_path / "14", 2014)),
        ("coco2017", miniature.write_coco(tmp_path / "17", 2017), coco.load_coco(tmp_path / "17", 2017)),
        ("flickr8k", miniature.write_flickr8k(tmp_path / "8k"), flickr8k.load_flickr8k(tmp_path / "8k")),
    ]:
        found = {file.name for file in remote_files(name, None, None)}
        assert found == {path.name for path in written}
        assert found & IMAGE_ARCHIVES == set(read.images["archive"])


def test_karpathys_lists_are_the_same_files_for_both_years():
    lists = [[file for file in remote_files(name, None, None) if "karpathy" in file.name] for name in NAMES[:2]]
    assert lists[0] == lists[1]
    assert len(lists[0]) == 3


@pytest.mark.parametrize("mirror", ["https://example.org/coco", "https://example.org/coco/"])
def test_a_mirror_has_all_files_flat_and_the_same_md5s(mirror):
    official, mirrored = remote_files("coco2014", None, None), remote_files("coco2014", mirror, None)
    assert [file.url for file in mirrored] == [f"https://example.org/coco/{file.name}" for file in official]
    assert [file.digest for file in mirrored] == [file.digest for file in official]


def test_checksums_replace_the_md5s_of_the_files_that_they_name(tmp_path):
    checksums = tmp_path / "md5.txt"
    checksums.write_text(
        f"# of our mirror\n\n{OTHER.upper()}  train2014.zip\r\n{OTHER} *images/val2014.zip\n{OTHER}  another.zip\n"
    )
    official = {file.name: file.digest for file in remote_files("coco2014", None, None)}
    found = {file.name: file.digest for file in remote_files("coco2014", "http://localhost:1", checksums)}
    assert found == {**official, "train2014.zip": OTHER, "val2014.zip": OTHER}


def test_md5sums_own_lines_are_understood(tmp_path):
    written = miniature.write_flickr8k(tmp_path / "raw")
    checksums = miniature.write_checksums(written, tmp_path / "md5.txt")
    found = remote_files("flickr8k", None, checksums)
    assert [f"{file.digest}  {file.name}" for file in sorted(found, key=lambda f: f.name)] == (
        checksums.read_text().splitlines()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{OTHER}  a.zip\n{OTHER}\n", "line 2: should be an md5"),
        (f"{OTHER}0  a.zip", "line 1: should be an md5"),
        (f"{OTHER[1:]}g  a.zip", "line 1: should be an md5"),
        (f"a.zip  {OTHER}", "line 1: should be an md5"),
        (f"MD5 (a.zip) = {OTHER}", "line 1: should be an md5"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_line_is_told_with_its_file_and_number(tmp_path, content, message):
    checksums = tmp_path / "md5.txt"
    if content is not None:
        checksums.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        remote_files("flickr8k", None, checksums)
    assert str(checksums) in str(caught.value)
    assert "\n" not in str(caught.value)
