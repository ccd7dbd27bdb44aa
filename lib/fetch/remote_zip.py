"""Fetch some members of a zip on a server, without downloading the rest."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from lib.core.errors import UserError, one_line
from lib.core.files import atomic_write
from lib.core.zips import MAX_IMAGE_BYTES, read_member, write_stored_zip
from lib.fetch.http import HttpClient, RetryPolicy, resume_get

_WINDOW = 64 * 2**10  # minimum bytes per request: enough for the end record of any zip
_HEADER = 1024  # assumed bytes of a member's header, name and extra fields; if longer, a second request follows
_BATCH = 16  # members in memory at a time


def fetch_members(url: str, members: Sequence[str], target: Path, policy: RetryPolicy | None = None) -> None:
    """Write those `members` that the zip at `url` has to a stored zip, in the given order.

    zipfile verifies their CRC-32. Raises UserError if the server does not send ranges or the zip is damaged.
    """
    with HttpClient(policy) as client:
        file = _RangeReader(client, url)
        try:
            archive = zipfile.ZipFile(file)
        except UserError:
            raise
        except Exception as error:  # malformed bytes may raise almost anything
            raise UserError(f"{url}: not a readable zip ({one_line(error)}). Use another dataset.mirror.") from error
        with archive, atomic_write(target) as unfinished:
            write_stored_zip(unfinished, _contents(file, archive, members))


def _contents(file: "_RangeReader", archive: zipfile.ZipFile, members: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    infos = [archive.NameToInfo[name] for name in dict.fromkeys(members) if name in archive.NameToInfo]
    for start in tqdm(range(0, len(infos), _BATCH), "downloading members", unit="batch", disable=None):
        batch = infos[start : start + _BATCH]
        lengths = [_HEADER + min(info.compress_size, MAX_IMAGE_BYTES) for info in batch]
        windows = file.client.map(file.fetch, [info.header_offset for info in batch], lengths)
        for info, window in zip(batch, windows, strict=True):
            file.window = window
            try:
                yield info.filename, read_member(archive, info.filename, MAX_IMAGE_BYTES)
            except zipfile.BadZipFile as error:
                problem = f"cannot read {info.filename!r:.200}: {error}"
                fix = "Run again; if it fails again, use another dataset.mirror."
                raise UserError(f"{file.url}: {problem}. {fix}") from error


class _RangeReader(io.IOBase):
    """A file on a server that zipfile can read. `window` is (offset, bytes): reads inside it need no request."""

    def __init__(self, client: HttpClient, url: str):
        self.client, self.url, self.size = client, url, client.size(url)
        self.position, self.window = 0, (0, b"")
        if not self.size:
            raise UserError(f"{url}: the server has no such file, or does not report its size. Check dataset.mirror.")

    def fetch(self, start: int, count: int) -> tuple[int, bytes]:
        content, end = io.BytesIO(), min(start + count, self.size)
        if 0 <= start < end:
            resume_get(self.client, self.url, content, start, end)
        return start, content.getvalue()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def read(self, count: int = -1) -> bytes:
        start = min(self.position, self.size)
        end = self.size if count < 0 else min(start + count, self.size)
        if end - start > MAX_IMAGE_BYTES:
            size = f"a part of {end - start} bytes"
            raise zipfile.BadZipFile(f"it declares {size}, more than the limit of {MAX_IMAGE_BYTES}")
        offset, content = self.window
        if not offset <= start <= end <= offset + len(content):
            offset = max(0, min(start, self.size - _WINDOW))
            offset, content = self.window = self.fetch(offset, max(end - offset, _WINDOW))
        self.position = end
        return content[start - offset : end - offset]
