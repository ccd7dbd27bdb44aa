"""Fetch some members of a zip from a real server, with the faults of zips and of servers."""

import errno
import io
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib.core.errors import UserError
from lib.core.zips import write_stored_zip
from lib.fetch import remote_zip
from lib.fetch.http import RetryPolicy
from lib.fetch.remote_zip import fetch_members
from tests.servers import serving
from tests.waiting import until

FAST = RetryPolicy(timeout=5, tries=3, backoff=0.001)
PICTURES = {f"train/{n:03}.jpg": random.Random(n).randbytes(10_000 + n) for n in range(40)}  # 400 KB
WANTED = ["train/031.jpg", "train/002.jpg", "train/017.jpg"]


@pytest.fixture
def server():
    with serving() as running:
        yield running


class Unseekable(io.BytesIO):
    """A file like a pipe: zipfile writes sizes and CRC-32 after each member's data."""

    def tell(self) -> int:
        raise OSError


def zipped(pictures=PICTURES, method=zipfile.ZIP_STORED, file=None, extra=b"", **directory) -> bytes:
    """Return a zip with `extra` in its local headers only; `directory` changes one entry of the zip's directory."""
    file = file or io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in pictures.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.extra = method, extra
            archive.writestr(info, content)
            info.extra = b""
        for name, value in directory.items():
            setattr(archive.getinfo(WANTED[0]), name, value)
    return file.getvalue()


def take(server, tmp_path, members=WANTED, policy=FAST) -> zipfile.ZipFile:
    target = tmp_path / "raw" / "images.zip"
    fetch_members(f"{server.url}/images.zip", members, target, policy)
    assert [path.name for path in target.parent.iterdir()] == ["images.zip"]
    return zipfile.ZipFile(target)


def fails(server, tmp_path, expected: type[Exception] = UserError) -> str:
    with pytest.raises(expected) as caught:
        take(server, tmp_path)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "raw" / "images.zip").exists()
    return str(caught.value)


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
def test_members_are_fetched_in_the_given_order_without_the_rest(server, tmp_path, content):
    server.serve("/images.zip", content)
    archive = take(server, tmp_path, [*WANTED, "train/no such.jpg"])
    write_stored_zip(tmp_path / "expected.zip", [(name, PICTURES[name]) for name in WANTED])
    assert Path(archive.filename).read_bytes() == (tmp_path / "expected.zip").read_bytes()
    assert sum(request.sent for request in server.gets()) < 200_000
    assert all(request.range for request in server.gets())


def test_a_large_directory_takes_two_requests(server, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1000)  # with more members, zipfile writes a Zip64 directory
    names = {f"{n:0200}": b"%d" % n for n in range(1500)}  # 370 KB, more than the first request reads
    content = zipped(names)
    assert b"PK\6\6" in content
    server.serve("/images.zip", content)
    archive = take(server, tmp_path, list(names)[7:9])
    assert [archive.read(name) for name in archive.namelist()] == [b"7", b"8"]
    assert len(server.gets()) == 2 + 2


@pytest.mark.parametrize(
    ("faults", "timeout"),
    [({"statuses": [500, 503]}, 5), ({"cuts": [1, 60_000, 0, 4000]}, 5), ({"stalls": [1, 60_000, 0, 4000]}, 0.5)],
    ids=["busy", "broken", "silent"],
)
def test_broken_transfers_are_resumed(server, tmp_path, faults, timeout):
    server.serve("/images.zip", zipped(), **faults)
    archive = take(server, tmp_path, WANTED, RetryPolicy(timeout=timeout, tries=3, backoff=0.001))
    assert [archive.read(name) for name in archive.namelist()] == [PICTURES[name] for name in WANTED]
    assert sum(request.sent for request in server.gets()) < 200_000


def test_a_killed_process_leaves_no_zip(server, tmp_path):
    complete = 10**9
    server.serve("/images.zip", zipped(), stalls=[complete] * 20 + [1000] * 4)
    code = (
        "import sys, pathlib; from lib.fetch.remote_zip import fetch_members; url, target, *members = sys.argv[1:]; "
        "fetch_members(url, members, pathlib.Path(target))"
    )
    target = tmp_path / "raw" / "images.zip"
    command = [sys.executable, "-c", code, f"{server.url}/images.zip", str(target), *PICTURES]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: len(server.gets()) >= 24)
        finally:
            process.kill()
    assert [path.name for path in target.parent.iterdir()] == ["images.zip.unfinished"]
    archive = take(server, tmp_path, list(PICTURES))
    assert {name: archive.read(name) for name in archive.namelist()} == PICTURES


def test_names_from_the_server_are_no_paths_here(server, tmp_path):
    name = "../../evil.jpg"
    server.serve("/images.zip", zipped({name: b"boo", "/tmp/evil.jpg": b"boo"}))
    assert take(server, tmp_path, [name]).read(name) == b"boo"
    assert not list(tmp_path.parent.rglob("evil.jpg"))


@pytest.mark.parametrize(
    ("content", "faults", "message"),
    [
        (zipped(), {"ranges": False}, "dataset.limit"),
        (zipped(), {"statuses": [404]}, "HTTP 404"),
        (zipped(), {"head": False}, "size"),
        (zipped()[:-30], {}, "not a readable zip"),
        (b"no zip" * 99_999, {}, "not a readable zip"),
        (b"x", {}, "not a readable zip"),
        (b"", {}, "size"),
        (zipped(flag_bits=1), {}, WANTED[0]),
        (zipped(compress_type=93), {}, WANTED[0]),
        (zipped(file_size=300_000_000), {}, "300000000"),
        (zipped(header_offset=1), {}, WANTED[0]),
        (zipped(header_offset=500_000), {}, WANTED[0]),
        (zipped(CRC=0), {}, WANTED[0]),
        (zipped(method=zipfile.ZIP_DEFLATED, file_size=99), {}, WANTED[0]),
        (zipped(compress_type=zipfile.ZIP_DEFLATED), {}, WANTED[0]),
        (zipped().replace(PICTURES[WANTED[1]], bytes(10_000 + 2)), {}, WANTED[1]),
    ],
)
def test_an_unreadable_zip_is_a_one_line_error(server, tmp_path, content, faults, message):
    server.serve("/images.zip", content, **faults)
    text = fails(server, tmp_path)
    assert text.startswith(f"{server.url}/images.zip")
    assert message in text


def test_a_member_is_not_read_beyond_the_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_zip, "MAX_IMAGE_BYTES", 50_000)
    server.serve("/images.zip", zipped({**PICTURES, WANTED[0]: bytes(60_000)}, zipfile.ZIP_DEFLATED))
    assert "60000" in fails(server, tmp_path)
    server.serve("/images.zip", zipped(compress_size=300_000_000))
    server.requests.clear()
    take(server, tmp_path)  # zipfile reads `file_size` bytes of a stored member
    assert sum(request.sent for request in server.gets()) < 200_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_os_error(server, tmp_path):
    server.serve("/images.zip", zipped())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "images.zip.unfinished").symlink_to("/dev/full")
    assert f"Errno {errno.ENOSPC}" in fails(server, tmp_path, OSError)
