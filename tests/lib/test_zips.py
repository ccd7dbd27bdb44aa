"""Reading a hostile zip never needs more memory than the limit."""

import os
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from lib.core.zips import read_member

LIMIT = 100_000


def write_bomb(path, size: int, declared: int, method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write a zip with a member of `size` zeros, whose header declares `declared` bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jpg", bytes(size))
    content = path.read_bytes()
    for header in (b"PK\x03\x04", b"PK\x01\x02"):  # the member's own header, and its entry in the central directory
        crc = content.index(header) + (14 if header[2] == 3 else 16)
        sizes = struct.pack("<I", zlib.crc32(bytes(declared))), content[crc + 4 : crc + 8], struct.pack("<I", declared)
        content = content[:crc] + b"".join(sizes) + content[crc + 12 :]
    path.write_bytes(content)


def read_in_little_memory(path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        tracemalloc.start()
        try:
            return read_member(archive, "a.jpg", LIMIT)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 5_000_000  # bytes


@pytest.mark.parametrize(
    ("size", "declared", "method"),
    [
        (50_000_000, 50_000_000, zipfile.ZIP_DEFLATED),
        (LIMIT + 1, LIMIT + 1, zipfile.ZIP_STORED),
        (50_000_000, 100, zipfile.ZIP_BZIP2),
        (50_000_000, 100, zipfile.ZIP_LZMA),
        (100, LIMIT, zipfile.ZIP_DEFLATED),
        (100, LIMIT, zipfile.ZIP_STORED),
    ],
)
def test_a_member_that_is_too_large_or_declares_a_wrong_size_is_rejected(tmp_path, size, declared, method):
    write_bomb(tmp_path / "a.zip", size, declared, method)
    with pytest.raises(zipfile.BadZipFile) as caught:
        read_in_little_memory(tmp_path / "a.zip")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("declared", [0, 100, LIMIT])
def test_a_member_that_is_larger_than_it_declares_is_cut(tmp_path, declared):
    write_bomb(tmp_path / "a.zip", 50_000_000, declared)
    assert read_in_little_memory(tmp_path / "a.zip") == bytes(declared)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_up_to_the_limit_is_read_completely(tmp_path, size, method):
    content = os.urandom(size)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.jpg", content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert read_member(archive, "a.jpg", LIMIT) == content
        with pytest.raises(KeyError):
            read_member(archive, "b.jpg", LIMIT)
