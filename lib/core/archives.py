"""Read images from zip and tar archives without unpacking them. Member names are never looked up on disk."""

import os
import tarfile
import zipfile
from pathlib import Path

from lib.core.errors import readable_errors
from lib.core.zips import open_zip, read_member


class Tar:
    """An uncompressed tar archive. Its headers are read once. Several threads may read members."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            members = [member for member in archive if member.isreg() and member.sparse is None]
        self._members = {member.name: (member.offset_data, member.size) for member in members}

    def namelist(self) -> list[str]:
        return list(self._members)

    def read(self, name: str, limit: int) -> bytes:
        """Return a member. Raises KeyError if it is missing; BadZipFile if it has over `limit` bytes or is cut off."""
        offset, size = self._members[name]
        if size > limit:
            raise zipfile.BadZipFile(f"it has {size} bytes, but the limit is {limit}")
        content = os.pread(self._file.fileno(), size, offset)
        if len(content) != size:
            raise zipfile.BadZipFile("the archive is cut off")
        return content


class Zip:
    """A zip archive. Several threads may read members."""

    def __init__(self, path: Path):
        self._archive = open_zip(path)

    def namelist(self) -> list[str]:
        return [name for name in self._archive.namelist() if not name.endswith("/")]

    def read(self, name: str, limit: int) -> bytes:
        """Return a member of at most `limit` bytes. Raises KeyError and BadZipFile as `read_member` does."""
        return read_member(self._archive, name, limit)


def open_archive(path: Path) -> Zip | Tar:
    """Open a zip or an uncompressed tar; its content decides which, not its name. Raises UserError."""
    with readable_errors(path):
        return Tar(path) if is_tar(path) else Zip(path)


def is_tar(path: Path) -> bool:
    """Return whether the file is an uncompressed tar."""
    if zipfile.is_zipfile(path):
        return False
    try:
        tarfile.open(path, "r:").close()
    except (tarfile.TarError, EOFError):
        return False
    return True
