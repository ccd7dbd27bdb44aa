"""A few members of a zip on a real server, with the faults of zips and of servers."""

import io
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.core.zips import write_stored_zip
from lib.fetch.http import RetryPolicy
from lib.fetch.remote_zip import fetch_members
from tests.servers import serving
from tests.waiting import until

HASTY = RetryPolicy(connect=5, read=5, tries=3, backoff=0.001)
PICTURES = {f"train/{n:03}.jpg": random.Random(n).randbytes(10_000 + n) for n in range(40)}  # 400 KB
WANTED = ["train/031.jpg", "train/002.jpg", "train/017.jpg"]
NO_LIMIT = 10**9


@pytest.fixture
def server():
    with serving() as running:
        yield running


class Unseekable(io.BytesIO):
    """As a pipe is; sizes and CRC-32 then follow each member's data."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError

    def seek(self, *arguments) -> int:
        raise OSError


def zipped(pictures=PICTURES, method=zipfile.ZIP_STORED, file=None, extra=b"", amend=None) -> bytes:
    """A zip whose members have `extra` in their local headers alone; `amend` changes one's entry in the directory."""
    file = file or io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in pictures.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.extra = method, extra
            archive.writestr(info, content)
            info.extra = b""
        for name, value in (amend or {}).items():
            setattr(archive.getinfo(WANTED[0]), name, value)
    return file.getvalue()


def take(server, tmp_path, members=WANTED, patience=HASTY) -> zipfile.ZipFile:
    target = tmp_path / "raw" / "images.zip"
    fetch_members(f"{server.url}/images.zip", members, target, tmp_path / "scratch", patience)
    assert not (tmp_path / "scratch").exists()
    assert [path.name for path in target.parent.iterdir()] == ["images.zip"]
    return zipfile.ZipFile(target)


def fails(server, tmp_path, members=WANTED) -> str:
    with pytest.raises(UserError) as caught:
        take(server, tmp_path, members)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "raw" / "images.zip").exists()
    return str(caught.value)


def finished(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("*") if path.suffix != ".part"]


@pytest.mark.parametrize(
    "content",
    [
        zipped(),
        zipped(method=zipfile.ZIP_DEFLATED),
        zipped(extra=b"\xfe\xca\xc8\0" + bytes(200)),
        zipped(file=Unseekable()),
        b"#!/bin/sh\n" * 30 + zipped(),
        zipped({**PICTURES, "train/022.jpg": bytes(2_000_000)}, zipfile.ZIP_DEFLATED),
    ],
    ids=["stored", "deflated", "long local headers", "written to a pipe", "something before it", "well deflated"],
)
def test_members_come_in_the_order_asked_for_and_the_rest_stays_where_it_is(server, tmp_path, content):
    server.serve("/images.zip", content)
    archive = take(server, tmp_path, [*WANTED, "train/no such.jpg"])
    write_stored_zip(tmp_path / "expected.zip", [(name, PICTURES[name]) for name in WANTED])
    assert Path(archive.filename).read_bytes() == (tmp_path / "expected.zip").read_bytes()
    assert sum(request.sent for request in server.gets()) < 200_000
    assert all(request.range for request in server.gets())


def test_a_large_directory_takes_no_more_than_three_requests(server, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1000)  # above which a directory is written as Zip64 has it
    names = {f"{n:0200}": b"%d" % n for n in range(1500)}  # 370 KB, which is more than is read from the end at first
    content = zipped(names)
    assert b"PK\6\6" in content
    server.serve("/images.zip", content)
    archive = take(server, tmp_path, list(names)[7:9])
    assert [archive.read(name) for name in archive.namelist()] == [b"7", b"8"]
    assert len(server.gets()) == 3 + 2
    assert len({request.range for request in server.gets()}) == 5


@pytest.mark.parametrize(
    ("faults", "silence"),
    [
        ({"statuses": [500, 503]}, 5),
        ({"cuts": [1, 70_000, 50_000, 0, 4000, 2000]}, 5),
        ({"stalls": [1, 70_000, 0, 4000]}, 0.5),
    ],
    ids=["busy", "cut", "silent"],
)
def test_a_bad_line_is_outlasted(server, tmp_path, faults, silence):
    server.serve("/images.zip", zipped(), **faults)
    archive = take(server, tmp_path, WANTED, RetryPolicy(read=silence, tries=3, backoff=0.001))
    assert {name: archive.read(name) for name in archive.namelist()} == {name: PICTURES[name] for name in WANTED}
    assert sum(request.sent for request in server.gets()) < 200_000


def test_a_killed_process_goes_on_where_it_was(server, tmp_path):
    server.serve("/images.zip", zipped(), stalls=[NO_LIMIT] * 8 + [1000] * 4)  # two for the directory, six members
    code = (
        "import sys, pathlib; from lib.fetch.remote_zip import fetch_members; url, folder, *members = sys.argv[1:]; "
        "folder = pathlib.Path(folder); fetch_members(url, members, folder / 'raw/images.zip', folder / 'scratch')"
    )
    url, scratch = f"{server.url}/images.zip", tmp_path / "scratch"
    with subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path), *PICTURES]) as process:
        try:
            until(lambda: len(server.gets()) >= 12 and len(finished(scratch)) >= 6)
        finally:
            process.kill()
    server.requests.clear()
    archive = take(server, tmp_path, list(PICTURES))
    assert {name: archive.read(name) for name in archive.namelist()} == PICTURES
    assert len(server.gets()) == 2 + len(PICTURES) - 6


def test_a_damaged_member_is_told_and_when_it_is_mended_it_alone_is_fetched(server, tmp_path):
    content = zipped()
    place = content.index(PICTURES[WANTED[1]])
    server.serve("/images.zip", content[:place] + b"damaged" + content[place + 7 :])
    one_by_one = RetryPolicy(connections=1)
    with pytest.raises(UserError, match=r"its member 'train/002\.jpg' is not what the zip's directory says"):
        take(server, tmp_path, WANTED, one_by_one)
    (kept,) = finished(tmp_path / "scratch")
    assert kept.read_bytes() == PICTURES[WANTED[0]]
    server.serve("/images.zip", content)
    server.requests.clear()
    kept.write_bytes(b"lost in a power cut")
    take(server, tmp_path, WANTED, one_by_one)
    assert len(server.gets()) == 2 + 3


def test_names_from_the_server_name_nothing_here(server, tmp_path):
    name = "../../evil.jpg"
    server.serve("/images.zip", zipped({name: b"boo", "/tmp/evil.jpg": b"boo"}))
    assert take(server, tmp_path, [name]).read(name) == b"boo"
    assert not list(tmp_path.parent.rglob("evil.jpg"))


@pytest.mark.parametrize(
    ("content", "faults", "message"),
    [
        (zipped(), {"ranges": False}, "does not send parts of a file: set dataset.limit to null"),
        (zipped(), {"statuses": [404]}, "HTTP 404"),
        (zipped()[:-30], {}, "no zip that can be read"),
        (b"no zip" * 99_999, {}, "no zip that can be read"),
        (b"x", {}, "no zip that can be read"),
        (b"", {}, "no such range, 3 times in a row"),
        (zipped(amend={"flag_bits": 1}), {}, f"{WANTED[0]}' is encrypted"),
        (zipped(amend={"compress_type": 93}), {}, "compressed in a way"),
        (zipped(amend={"file_size": 300_000_000}), {}, "claims 300 MB"),
        (zipped(amend={"compress_size": 300_000_000}), {}, "claims 300 MB"),
        (zipped(amend={"header_offset": 1}), {}, "does not begin as a member does"),
        (zipped(amend={"header_offset": 500_000}), {}, "where the zip has ended"),
        (zipped(amend={"CRC": 0}), {}, "is not what the zip's directory says"),
        (zipped(method=zipfile.ZIP_DEFLATED, amend={"file_size": 99}), {}, "is not what the zip's directory says"),
        (zipped(amend={"compress_type": zipfile.ZIP_DEFLATED}), {}, "cannot be decompressed"),
    ],
)
def test_a_zip_that_cannot_be_had_is_told_in_one_line(server, tmp_path, content, faults, message):
    server.serve("/images.zip", content, **faults)
    text = fails(server, tmp_path)
    assert text.startswith(f"{server.url}/images.zip")
    assert message in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_and_what_has_come_is_kept(server, tmp_path):
    server.serve("/images.zip", zipped())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "images.zip.unfinished").symlink_to("/dev/full")
    assert "is full: make room and run again" in fails(server, tmp_path)
    assert len(finished(tmp_path / "scratch")) == len(WANTED)
