"""Stored (uncompressed) zips: an image in one is a seek and a read away, so nothing is ever unpacked."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the bytes of a zip must not depend on when it was written


def write_stored_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes (name, content) pairs, in their order, to a zip whose bytes depend on them alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
