"""Read zip archives without unpacking them: reading an image from an uncompressed zip takes one seek.

Zips come from untrusted sources. So member names are never looked up on disk, and every read has a size limit.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.core.errors import one_line, readable_errors

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that equal content gives equal bytes
_SAFE_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # for other methods, Python cannot limit the output size

MAX_IMAGE_BYTES = 2**28
_MAX_ANNOTATION_BYTES = 2**30  # ten times the size of COCO's captions


def write_stored_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, content) pairs to an uncompressed zip, in this order. The same pairs give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip for reading. Raises UserError."""
    with readable_errors(path):
        return zipfile.ZipFile(path)


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the content of a member. Never unpack more bytes than its header declares.

    Raises KeyError if the member is missing. Raises BadZipFile, with a one-line text, if the member has more than
    `limit` bytes or is damaged.
    """
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise zipfile.BadZipFile(f"it has {info.file_size} bytes, but the limit is {limit}")
    if info.compress_type not in _SAFE_METHODS:
        method = f"its compression method {info.compress_type} is not supported"
        raise zipfile.BadZipFile(f"{method}; use stored or deflate")
    try:
        with archive.open(info) as member:
            content = member.read(info.file_size)  # read() without a size would unpack everything first
    except Exception as error:  # malformed bytes raise many kinds of error
        raise zipfile.BadZipFile(one_line(error)) from error
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"it has {len(content)} bytes, but the zip declares {info.file_size}")
    return content


def read_zipped_file(path: Path, name: str) -> bytes:
    """Return the content of an annotation file `name` in the zip at `path`. Raises UserError that names both."""
    with open_zip(path) as archive, readable_errors(path / name):
        return read_member(archive, name, _MAX_ANNOTATION_BYTES)
