"""Large files over HTTP, which arrive whole or not at all, however often the line breaks.

A store is a folder of finished files, each under its digest: a file that is there has been verified. `<digest>.part`
is one under way. It is gone on with from its length, after a broken line as after a killed process.

`fetch` is what most callers want. `Line` (requests that outlast a bad network), `in_parallel` and `disk_error` are what
it is made of, and what lib.fetch.remote_zip is made of too.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from lib.core.errors import UserError
from lib.core.workdir import locked

_CHUNK = 256 * 2**10  # bytes taken from the network at once, at most
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever a server asks for
_FAREWELL = 0.2  # seconds that a thread has to end in, once all shall stop
_NETWORK = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)
_WILD = (*_NETWORK, ValueError)  # what requests lets through where a server answers nonsense; its own are OSErrors

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server, and how it is known to be the right one.

    `digest` is in hexadecimal; eight digits or more of its beginning will do where no more is known (torchvision's
    file names carry the first eight of SHA-256), but an md5 is given whole. Raises UserError where it cannot be one.
    """

    url: str
    digest: str
    algorithm: str = "md5"

    def __post_init__(self) -> None:
        digest = self.digest.lower()
        if not re.fullmatch("[0-9a-f]{32}" if self.algorithm == "md5" else "[0-9a-f]{8,}", digest):
            raise UserError(f"{self.url}: {self.digest!r} is no {self.algorithm} digest: give its hexadecimal digits")
        object.__setattr__(self, "digest", digest)

    @property
    def name(self) -> str:
        """The last component of the URL's path."""
        return PurePosixPath(urlsplit(self.url).path).name

    def at(self, mirror: str) -> "RemoteFile":
        """The same file below the base URL `mirror`, which has all files flat under their own names."""
        return replace(self, url=f"{mirror.rstrip('/')}/{self.name}")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to ask again."""

    connect: float = 15.0  # seconds until it must have taken the connection
    read: float = 60.0  # seconds that it may stay silent
    tries: int = 6  # without a single new byte, before giving up
    backoff: float = 1.0  # seconds before the second try; they double from try to try, up to a minute
    connections: int = 4  # at once


DEFAULT_POLICY = RetryPolicy()


def fetch(files: Sequence[RemoteFile], store: Path, patience: RetryPolicy = DEFAULT_POLICY) -> list[Path]:
    """Paths in `store` of the files, in order, each whole and verified; those already there are not fetched again.

    Raises UserError where a file cannot be had, is another than its digest says, or finds no room on the disk.
    """
    paths = [store / file.digest for file in files]
    if not all(path.exists() for path in paths):
        try:
            with locked(store):  # two processes that write one part would spoil it
                missing = {file.digest: file for file in files if not (store / file.digest).exists()}
                _fetch_missing(list(missing.values()), store, patience)
        except OSError as error:
            raise disk_error(error, store) from error
    return paths


def _fetch_missing(files: list[RemoteFile], store: Path, patience: RetryPolicy) -> None:
    parts = [store / f"{file.digest}.part" for file in files]
    had = [part.stat().st_size if part.exists() else 0 for part in parts]
    with contextlib.closing(HttpClient(patience)) as line:
        sizes = in_parallel(line.size, [file.url for file in files], line)
        needed = sum(max(0, (size or 0) - begun) for size, begun in zip(sizes, had, strict=True))
        if needed > (free := shutil.disk_usage(store).free):
            raise UserError(
                f"the download needs {needed / 1e9:.2f} GB in {store}, where {free / 1e9:.2f} GB are free: "
                "make room and run again"
            )
        total = None if None in sizes else sum(size or 0 for size in sizes)
        with tqdm(
            desc="downloading", total=total, initial=sum(had), unit="B", unit_scale=True, disable=None
        ) as progress:
            counting = threading.Lock()  # tqdm's count is not safe from several threads

            def moved(count: int) -> None:
                with counting:
                    progress.update(count)

            line.moved = moved

            def fetch_one(task: tuple[RemoteFile, Path, int | None]) -> None:
                _fetch_one(*task, line, progress)

            in_parallel(fetch_one, list(zip(files, parts, sizes, strict=True)), line)


def _fetch_one(file: RemoteFile, part: Path, size: int | None, line: "HttpClient", progress: tqdm) -> None:
    """Brings `part` to its end, verifies it and gives it its finished name. `size` in bytes, where it is known."""
    for last_chance in (False, True):
        fresh = False
        with part.open("ab", buffering=0) as sink:
            if sink.tell() != size:
                fresh = line.pull(file.url, sink).fresh
            os.fsync(sink.fileno())  # so that no crash leaves the finished name without the content
        progress.set_postfix_str(f"verifying {file.name}")  # a large one takes a minute, at 100 %
        found = _digest(part, file.algorithm, line)
        progress.set_postfix_str("")
        if found.startswith(file.digest):
            part.replace(part.with_suffix(""))
            return
        line.moved(-part.stat().st_size)
        part.unlink()
        if fresh or last_chance:  # one pieced together may have been spoilt here, or have changed there meanwhile
            raise UserError(
                f"{file.url}: the {file.algorithm} is {found}, and should be {file.digest}: the server has another "
                "file: try another dataset.mirror, or list it in dataset.checksums if that is meant"
            )
        size = None


def _digest(path: Path, algorithm: str, line: "HttpClient") -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            line.check()
            digest.update(chunk)
    return digest.hexdigest()


class Pulled(NamedTuple):
    total: int | None  # bytes that the whole file has, where the server told
    fresh: bool  # if all came in one answer


class RetryableError(Exception):
    """A failure that may pass. `wait` is for how many seconds the server asks to be left alone."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _Stopped(Exception):
    """Another thread has failed, or the user has had enough."""


class HttpClient:
    """Requests that outlast a bad network. Safe from several threads; once `stop` is set, each ends soon.

    `moved` is called with the number of bytes that have arrived, or, below zero, been thrown away.
    """

    def __init__(self, patience: RetryPolicy):
        self.patience = patience
        self.stop = threading.Event()
        self.moved: Callable[[int], None] = lambda count: None
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file itself
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=patience.connections))

    def close(self) -> None:
        self._session.close()

    def check(self) -> None:
        """Ends the thread that calls it, once all shall stop."""
        if self.stop.is_set():
            raise _Stopped

    def size(self, url: str) -> int | None:
        """Bytes of a file, or None where the server does not tell without sending it."""
        try:
            with self._session.head(url, allow_redirects=True, timeout=self.patience.connect) as response:
                length = _whole_number(response.headers.get("Content-Length"))
                return length or None if response.status_code == 200 else None  # 0 is what some say for "unknown"
        except _WILD:
            return None

    def pull(self, url: str, sink: BinaryIO, first: int = 0, last: int | None = None) -> Pulled:
        """Appends to `sink` what it lacks of the bytes `first` to `last` (None: the end) of a file, in many tries.

        What is in the sink already counts as the first of them. Goes on for as long as new bytes arrive: those that
        bring it no further than it has been, on a server that always starts over, are not new. Raises UserError, and
        OSError where the sink does.
        """
        furthest, failures = sink.tell(), 0
        while True:
            try:
                return self._pull_once(url, sink, first, last)
            except RetryableError as error:
                failures = 0 if sink.tell() > furthest else failures + 1
                furthest = max(furthest, sink.tell())
                if failures >= self.patience.tries:
                    raise UserError(
                        f"{url}: {error}, {failures} times in a row: check the network, or try another "
                        "dataset.mirror, and run again: what has arrived is kept"
                    ) from error
                backoff = self.patience.backoff * 2 ** max(0, failures - 1)
                self.stop.wait(min(max(backoff, error.wait), _LONGEST_WAIT))

    def _pull_once(self, url: str, sink: BinaryIO, first: int, last: int | None) -> Pulled:
        """One request for what the sink lacks. Raises _Passing where another may do better."""
        start = first + sink.tell()
        ranged = start > first or last is not None
        headers = {"Range": f"bytes={start}-{'' if last is None else last}"} if ranged else {}
        with self._get(url, headers) as response:
            status = response.status_code
            begin, end, total = _extent(response)
            if status == 416:
                if last is None and start == total:
                    return Pulled(total, fresh=False)
                self._start_over(sink)
                raise RetryableError("the server has no such range")
            if status not in (200, 206):
                raise _refusal(url, response)
            if status == 200 and last is not None:
                raise UserError(
                    f"{url}: the server does not send parts of a file: set dataset.limit to null, "
                    "which fetches the whole, or try another dataset.mirror"
                )
            if begin != start:
                self._start_over(sink)
                if begin != first:
                    raise RetryableError("the server sends another range than it was asked for")
            if last is not None:
                end = last + 1
            elif total is not None:
                end = total  # some send a long range in pieces
            for chunk in self._chunks(response):
                if end is not None and first + sink.tell() + len(chunk) > end:
                    self._start_over(sink)
                    raise RetryableError("the server sends more bytes than it announced")
                _write(sink, chunk)
                self.moved(len(chunk))
            if end is not None and first + sink.tell() < end:
                raise RetryableError("the connection ends before the file does")
            return Pulled(total, fresh=begin == first)

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        self.check()
        timeout = (self.patience.connect, self.patience.read)
        try:
            return self._session.get(url, headers=headers, stream=True, timeout=timeout)
        except _WILD as error:
            cause = _first_cause(error)
            # requests says with a ValueError that a URL, be it one redirected to, cannot be asked for.
            if isinstance(error, ValueError | requests.TooManyRedirects) or isinstance(
                cause, ssl.SSLCertVerificationError
            ):
                raise UserError(f"{url}: {_reason(cause)}: check dataset.mirror or the URL") from error
            raise RetryableError(f"no proper answer ({_reason(cause)})") from error

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The body, as it arrives: `read1` does not wait for a chunk to be full, so a broken line loses nothing."""
        while True:
            try:
                chunk = response.raw.read1(_CHUNK, decode_content=False)
            except _WILD as error:
                raise RetryableError(f"the connection breaks ({_reason(_first_cause(error))})") from error
            self.check()
            if not chunk:
                return
            yield chunk

    def _start_over(self, sink: BinaryIO) -> None:
        self.moved(-sink.tell())
        sink.seek(0)
        sink.truncate()


def _extent(response: requests.Response) -> tuple[int | None, int | None, int | None]:
    """(offset of the body's first byte, of the one after its last, the whole file's length), None for not told."""
    if response.status_code == 200:
        length = _whole_number(response.headers.get("Content-Length"))
        return 0, length, length
    told = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    first, last, total = map(_whole_number, told.groups()) if told else (None, None, None)
    return first, None if last is None else last + 1, total


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def _refusal(url: str, response: requests.Response) -> Exception:
    """What to make of an answer that brings no bytes."""
    status = response.status_code
    if status in (408, 429) or status >= 500:
        return RetryableError(
            f"the server answers HTTP {status}", _whole_number(response.headers.get("Retry-After")) or 0
        )
    if status in (404, 410):
        return UserError(f"{url}: the server has no such file (HTTP {status}): check dataset.mirror or the URL")
    if status in (401, 403):
        return UserError(f"{url}: the server refuses (HTTP {status}): check dataset.mirror, or if it wants a login")
    return UserError(f"{url}: the server answers HTTP {status}: check dataset.mirror or the URL")


def _first_cause(error: BaseException) -> BaseException:
    """What the network said, below the layers that passed it on."""
    while isinstance(inner := error.__cause__ or error.__context__, _NETWORK):
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """An error in one short line without control characters: a server may have written it."""
    text = "".join(character if character.isprintable() else " " for character in str(error))
    return textwrap.shorten(text, 160, placeholder=" ...") or type(error).__name__


def _write(sink: BinaryIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:  # a disk that is nearly full takes a part
        left = left[sink.write(left) :]


def disk_error(error: OSError, path: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {path} is full: make room and run again: what has arrived is kept")
    place = error.filename or path
    return UserError(f"cannot write {place}: {error.strerror or error}: check its permissions and its disk")


def in_parallel(work: Callable[[T], R], items: Sequence[T], line: HttpClient) -> list[R]:
    """`work(item)` for each item, in order, `patience.connections` at a time.

    The first error, and Ctrl-C, stops `line`, hence all other work on it, and is raised at once: a thread that hangs
    in a silent connection is left behind. The threads are daemons for that, which a ThreadPoolExecutor's are not.
    """
    todo = deque(enumerate(items))
    done: dict[int, R] = {}
    errors: list[BaseException] = []

    def labour() -> None:
        try:
            while not line.stop.is_set():
                try:
                    index, item = todo.popleft()
                except IndexError:
                    return
                done[index] = work(item)
        except BaseException as error:  # to be raised by the caller's thread
            errors.append(error)
            line.stop.set()

    threads = [threading.Thread(target=labour, daemon=True) for _ in items[: line.patience.connections]]
    try:
        for thread in threads:
            thread.start()
        while not line.stop.is_set() and (busy := [thread for thread in threads if thread.is_alive()]):
            busy[0].join(0.05)  # briefly: another one may fail meanwhile, and Windows hears Ctrl-C only in between
    except BaseException:
        line.stop.set()
        raise
    finally:
        for thread in threads:
            if thread.is_alive():
                thread.join(_FAREWELL)
    if errors:
        raise errors[0]
    return [done[index] for index in range(len(items))]
