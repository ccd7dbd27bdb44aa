"""A few members of a zip on a server, without the rest of it.

A zip's directory stands at its end and says where each member is. So three requests bring the directory (COCO's of
83,000 entries are 8 MB, of 13 GB), and one more brings each member.
"""

import contextlib
import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lib.core.errors import UserError
from lib.core.files import atomic_write
from lib.core.zips import MAX_IMAGE_BYTES, write_stored_zip
from lib.fetch.http import DEFAULT_POLICY, HttpClient, RetryPolicy, disk_error, in_parallel

_TAIL = 128 * 2**10  # bytes at a zip's end: what points to the directory is in the last 66 kB
_HEADER = struct.Struct("<4s22xHH")  # a member's local header: signature, ..., lengths of the name and of what follows
_SPARE = 64  # bytes by which that may be longer here than in the directory, without another request
# What the standard library raises on a directory that was made to mislead.
_BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error)


def fetch_members(
    url: str, members: Sequence[str], target: Path, scratch: Path, patience: RetryPolicy = DEFAULT_POLICY
) -> None:
    """Writes `target`, a stored zip of the given members of the zip at `url`, in the given order.

    Each is checked against the CRC-32 and the size that the zip's own directory gives; those that are not in it are
    left out. `scratch` is a folder for this URL alone, where finished members wait for the others, so that a killed
    process goes on where it was; it is removed at the end. No other process may be at work in it.

    Raises UserError where the server does not send ranges, the zip is broken, or the disk is full.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(HttpClient(patience)) as line:
            remote = _RemoteBytes(url, line)
            directory = _directory(remote)
            wanted = {name: directory[name] for name in members if name in directory}
            _fetch_missing(remote, list(wanted.values()), scratch, line)
            with atomic_write(target) as unfinished:
                write_stored_zip(
                    unfinished, ((name, _fetched(info, scratch).read_bytes()) for name, info in wanted.items())
                )
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, scratch) from error


class _RemoteBytes:
    """What zipfile needs of a file to read a zip's directory, over ranges of a URL. Raises UserError."""

    def __init__(self, url: str, line: HttpClient):
        self.url, self._line = url, line
        total = line.pull(url, io.BytesIO(), 0, 0).total  # asks for one byte to learn how many there are
        if total is None:
            raise UserError(f"{url}: the server does not tell how long the file is: try another dataset.mirror")
        self.size = total
        self._position = 0
        self._from, self._window = total, b""  # what was read last, and the offset of its first byte

    def range(self, first: int, end: int, sink: io.BytesIO | None = None) -> io.BytesIO:
        """The bytes from `first` to before `end`, of which `sink` may have some already."""
        sink = sink or io.BytesIO()
        if first + sink.tell() < end:
            self._line.pull(self.url, sink, first, end - 1)
        return sink

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence] + offset
        if position < 0:
            raise OSError("before the beginning")  # as a file does, which zipfile counts on
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        first = min(self._position, self.size)
        end = self.size if count < 0 else min(first + count, self.size)
        if end - first > MAX_IMAGE_BYTES:  # a zip's directory is far smaller: COCO's is a thirtieth of that
            raise UserError(
                f"{self.url}: its directory claims {(end - first) / 1e9:.1f} GB: try another dataset.mirror"
            )
        if first < self._from or end > self._from + len(self._window):
            tail = max(0, self.size - _TAIL)
            # zipfile reads a few records at the end, in small steps, and then the directory in one.
            self._from, upto = (tail, self.size) if first >= tail else (first, end)
            self._window = self.range(self._from, upto).getvalue()
        self._position = end
        return self._window[first - self._from : end - self._from]


def _directory(remote: _RemoteBytes) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(remote) as archive:
            return {info.filename: info for info in archive.infolist()}
    except _BROKEN as error:
        raise UserError(f"{remote.url} is no zip that can be read: {error}: try another dataset.mirror") from error


def _fetched(info: zipfile.ZipInfo, scratch: Path) -> Path:
    """Where a finished member is, under a name that no server can choose."""
    return scratch / f"{info.header_offset:x}-{info.CRC:08x}-{info.file_size}"


def _fetch_missing(remote: _RemoteBytes, infos: list[zipfile.ZipInfo], scratch: Path, line: HttpClient) -> None:
    for info in infos:
        _check(info, remote)
    with tqdm(desc="downloading members", total=len(infos), unit="file", disable=None) as progress:

        def fetch_one(info: zipfile.ZipInfo) -> None:
            path = _fetched(info, scratch)
            if not (path.exists() and _whole(path.read_bytes(), info)):
                part = path.with_name(f"{path.name}.part")
                part.write_bytes(_content(remote, info))
                part.replace(path)
            progress.update()

        in_parallel(fetch_one, list({_fetched(info, scratch): info for info in infos}.values()), line)


def _check(info: zipfile.ZipInfo, remote: _RemoteBytes) -> None:
    """Raises UserError for a member that is not to be fetched."""
    if info.flag_bits & 1:
        raise _damaged(remote, info, "is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(remote, info, f"is compressed in a way (number {info.compress_type}) that is not known here")
    if max(info.file_size, info.compress_size) > MAX_IMAGE_BYTES:
        raise _damaged(remote, info, f"claims {max(info.file_size, info.compress_size) / 1e6:.0f} MB")
    if not 0 <= info.header_offset <= remote.size - _HEADER.size - info.compress_size:
        raise _damaged(remote, info, "is said to be where the zip has ended")


def _content(remote: _RemoteBytes, info: zipfile.ZipInfo) -> bytes:
    """One member, fetched and verified."""
    begin = info.header_offset
    header = _HEADER.size + len(info.orig_filename.encode()) + len(info.extra) + _SPARE  # as long as it may well be
    sink = remote.range(begin, min(begin + header + info.compress_size, remote.size))
    signature, name, extra = _HEADER.unpack_from(sink.getbuffer())
    start = _HEADER.size + name + extra
    if signature != b"PK\3\4" or begin + start + info.compress_size > remote.size:
        raise _damaged(remote, info, "does not begin as a member does")
    end = start + info.compress_size
    body = remote.range(begin, begin + end, sink).getvalue()[start:end]
    try:
        if info.compress_type == zipfile.ZIP_DEFLATED:
            body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, info.file_size + 1)  # never more than it claims
    except zlib.error as error:
        raise _damaged(remote, info, f"cannot be decompressed ({error})") from error
    if not _whole(body, info):
        raise _damaged(remote, info, "is not what the zip's directory says (CRC-32 and size)")
    return body


def _whole(content: bytes, info: zipfile.ZipInfo) -> bool:
    return len(content) == info.file_size and zlib.crc32(content) == info.CRC


def _damaged(remote: _RemoteBytes, info: zipfile.ZipInfo, what: str) -> UserError:
    return UserError(
        f"{remote.url}: its member {info.filename!r:.200} {what}: run again, or try another dataset.mirror"
    )
