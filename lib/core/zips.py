"""Zips, which nothing ever unpacks: an image in a stored (uncompressed) one is a seek and a read away.

What lies in a zip is as its maker pleased, so a name is only ever looked up among the zip's own names, never on disk,
and no member is read beyond a bound.
"""

import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.core.errors import UserError, one_line

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the bytes of a zip must not depend on when it was written

# Python's decoders of the other methods cannot be told to stop after so many bytes.
_BOUNDED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

IMAGE_SUFFIXES = {
    ".avif",
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
}  # how their files' names end
MAX_IMAGE_BYTES = 2**28  # bytes; what claims to be larger is no photograph
_MAX_ANNOTATION_BYTES = 2**30  # bytes; the largest file of captions that is read here, COCO's, has a tenth of that


def write_stored_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes (name, content) pairs, in their order, to a zip whose bytes depend on them alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip, open for reading; raises UserError where there is none."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # beside BadZipFile, wild bytes may raise almost anything
        raise UserError(f"{path} is not a zip, or a broken one: {one_line(error)}") from error


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The content of a member of at most `limit` bytes; however much it would unpack to, no more is ever unpacked.

    Raises KeyError where there is no such member, and BadZipFile, whose text is one line, where it is larger or broken.
    """
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise zipfile.BadZipFile(f"it holds {info.file_size} bytes, more than the {limit} that are read")
    if info.compress_type not in _BOUNDED:
        raise zipfile.BadZipFile("it is neither stored nor deflated")
    try:
        with archive.open(info) as member:
            # Not read(): that unpacks all there is, and only then cuts it to the size that the zip declares.
            content = member.read(info.file_size)
    except Exception as error:  # beside BadZipFile, wild bytes may raise almost anything
        raise zipfile.BadZipFile(one_line(error)) from error
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"it holds {len(content)} bytes, where the zip declares {info.file_size}")
    return content


def read_annotations(path: Path, name: str) -> bytes:
    """The content of a member of the zip at `path`. Raises UserError, which calls the member `path`/`name`."""
    with open_zip(path) as archive:
        try:
            return read_member(archive, name, _MAX_ANNOTATION_BYTES)
        except KeyError:
            raise UserError(f"{path} is not the zip that it should be: it lacks {name}") from None
        except zipfile.BadZipFile as error:
            raise UserError(f"cannot read {path / name}: {error}") from error


def find_members(wanted: Iterable[str], names: list[str]) -> list[str]:
    """For each wanted name the member of a zip that holds `names`: the one of that very name, else the only one with
    its file name, in whatever folder, else the name as it is, which the zip will be found to lack. A Mac writes é as
    e and an accent, others as one character: that makes no difference."""
    by_file_name: dict[str, str | None] = {}
    for name in names:
        short = _file_name(_composed(name))
        by_file_name[short] = None if short in by_file_name else name
    by_name = {_composed(name): name for name in names} | {name: name for name in names}
    return [
        by_name.get(name) or by_name.get(_composed(name)) or by_file_name.get(_file_name(_composed(name))) or name
        for name in wanted
    ]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]
