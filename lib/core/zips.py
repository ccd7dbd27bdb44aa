"""Zip archives, which are read in place and never unpacked: reading an image from a stored zip is one seek.

Zips come from strangers. So a member name is looked up in the zip only, never on disk, and every read has a size limit.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.core.errors import one_line, readable_errors

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that equal content gives equal bytes
_SAFE_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # Python cannot limit the output of the other decoders

MAX_IMAGE_BYTES = 2**28
_MAX_ANNOTATION_BYTES = 2**30  # COCO's captions have a tenth of that


def write_stored_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, content) pairs, in this order, to an uncompressed zip whose bytes depend on them alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip for reading. Raises UserError."""
    with readable_errors(path):
        return zipfile.ZipFile(path)


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the content of a member of at most `limit` bytes; never unpack more than it declares.

    Raises KeyError if the member is missing and BadZipFile, with a text of one line, if it is too large or damaged.
    """
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise zipfile.BadZipFile(f"it has {info.file_size} bytes, more than the limit of {limit}")
    if info.compress_type not in _SAFE_METHODS:
        raise zipfile.BadZipFile("it is neither stored nor deflated")
    try:
        with archive.open(info) as member:
            content = member.read(info.file_size)  # read() without a size would unpack everything first
    except Exception as error:  # malformed bytes raise many kinds of error
        raise zipfile.BadZipFile(one_line(error)) from error
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"it has {len(content)} bytes, but the zip declares {info.file_size}")
    return content


def read_zipped_file(path: Path, name: str) -> bytes:
    """Return the content of an annotation file in the zip at `path`. Raises UserError, which names `path`/`name`."""
    with open_zip(path) as archive, readable_errors(path / name):
        return read_member(archive, name, _MAX_ANNOTATION_BYTES)
