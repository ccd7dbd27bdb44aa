"""Download large files over HTTP, with retries, resume and MD5 verification.

A store is a folder of finished files, each named by its MD5. `<md5>.part` is an unfinished file, which the next try
or the next run resumes.
"""

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from lib.core.errors import UserError
from lib.core.workdir import locked

_CHUNK = 256 * 2**10  # maximum bytes per read


@dataclass(frozen=True)
class RemoteFile:
    url: str
    md5: str  # lower-case hexadecimal

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class RetryPolicy:
    timeout: float = 10.0  # seconds without a byte until a try fails; after Ctrl-C, a transfer stops within this time
    tries: int = 6  # consecutive tries without a new byte until the download fails
    backoff: float = 1.0  # seconds before the second retry; each further retry doubles this wait, up to a minute
    connections: int = 4


class HttpClient(requests.Session):
    """A session with retries, for several threads. If `stop` is set, each thread soon raises CancelledError.

    `on_progress` is called with the number of bytes that were received. If received bytes are discarded, it is called
    with minus their number.
    """

    def __init__(self, policy: RetryPolicy | None):
        super().__init__()
        self.policy = policy = policy or RetryPolicy()
        self.on_progress: Callable[[int], object] = lambda count: None
        self.stop = stop = threading.Event()
        self.headers["Accept-Encoding"] = "identity"  # uncompressed, so that ranges count the bytes of the file

        class StoppableRetry(urllib3.Retry):
            def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
                wait = (response and self.get_retry_after(response)) or self.get_backoff_time()
                if stop.wait(min(wait, 60)):
                    raise CancelledError

        statuses = (408, 429, 500, 502, 503, 504)
        self.retry = StoppableRetry(policy.tries - 1, status_forcelist=statuses, backoff_factor=policy.backoff)
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(max_retries=self.retry))

    def open(self, method: str, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        """Send a request, with retries. Raises UserError if it fails."""
        try:
            return self.request(method, url, headers=headers, stream=True, timeout=self.policy.timeout)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            problem = f"{url}: the request failed ({_cause(error)})"
            raise UserError(f"{problem}. Check the network and dataset.mirror.") from error

    def size(self, url: str) -> int:
        """Return the length of a file in bytes, or 0 if HEAD does not report it."""
        with self.open("HEAD", url) as response:
            length = response.headers.get("Content-Length", "")
            return int(length) if response.ok and length.isdecimal() and len(length) < 19 else 0

    def map(self, function: Callable[..., Any], *items: Sequence[Any]) -> list[Any]:
        """Return `list(map(function, *items))`, run in threads. The first error, or Ctrl-C, stops all threads."""
        with ThreadPoolExecutor(self.policy.connections) as pool:
            futures = [pool.submit(function, *arguments) for arguments in zip(*items, strict=True)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]


def fetch(files: Sequence[RemoteFile], store: Path, policy: RetryPolicy | None = None) -> list[Path]:
    """Return the paths of the verified files in `store`, in order. Download those that are missing.

    Raises UserError if a file is unavailable or has another MD5, or if the disk has too little space.
    """
    paths = [store / file.md5 for file in files]
    if all(path.exists() for path in paths):
        return paths
    with locked(store), HttpClient(policy) as client:  # lock: two processes must not write to the same part
        missing = list({file.md5: file for file in files if not (store / file.md5).exists()}.values())
        parts = [store / f"{file.md5}.part" for file in missing]
        total = sum(client.map(client.size, [file.url for file in missing]))
        present = sum(part.stat().st_size for part in parts if part.exists())
        needed, free = total - present, shutil.disk_usage(store).free
        if needed > free:
            sizes = f"{needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free"
            raise UserError(f"{store}: the download needs {sizes}. Free some space and run again.")
        with tqdm(desc="downloading", total=total, initial=present, unit="B", unit_scale=True, disable=None) as bar:
            client.on_progress = bar.update
            client.map(partial(_fetch_one, client), missing, parts)
    return paths


def _fetch_one(client: HttpClient, file: RemoteFile, part: Path) -> None:
    """Complete `part`, verify it and rename it to its MD5."""
    with part.open("ab") as sink:
        resumed = sink.tell() > 0
        resume_get(client, file.url, sink)
        os.fsync(sink.fileno())  # so that a file with a finished name is complete after a crash
    with part.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").hexdigest()
    if md5 == file.md5:
        part.replace(part.with_suffix(""))
        return
    client.on_progress(-part.stat().st_size)
    part.unlink()
    if not resumed:
        fix = "Use another dataset.mirror, or list the new MD5 in dataset.checksums if the file is right."
        raise UserError(f"{file.url}: the MD5 is {md5}, but should be {file.md5}. {fix}")
    _fetch_one(client, file, part)  # download the whole file, because the resumed part was damaged


def resume_get(client: HttpClient, url: str, sink: BinaryIO, first: int = 0, end: int | None = None) -> None:
    """Append the bytes `first` to `end` - 1 of a file to `sink`, which may already hold some. None: to the file's end.

    Resume a broken transfer as long as new bytes arrive. Raises UserError, and OSError if `sink` raises it.
    """
    retry, furthest = client.retry, sink.tell()
    while True:
        try:
            return _get_rest(client, url, sink, first, end)
        except urllib3.exceptions.HTTPError as error:
            if sink.tell() > furthest:  # new bytes; a server without ranges sends old bytes first
                retry, furthest = client.retry, sink.tell()
            if not retry.total:
                problem = f"the connection broke {client.policy.tries} times in a row ({_cause(error)})"
                raise UserError(f"{url}: {problem}. Check the network and run again.") from error
            retry = retry.increment("GET", url, error=error)
            retry.sleep()


def _get_rest(client: HttpClient, url: str, sink: BinaryIO, first: int, end: int | None) -> None:
    """Send one request for the bytes that `sink` lacks. The caller must verify them by MD5 or CRC-32."""
    start, length = first + sink.tell(), end - first if end else sys.maxsize
    headers = {"Range": f"bytes={start}-{end - 1 if end else ''}"} if start or end else {}
    with client.open("GET", url, headers) as response:
        if response.status_code == 416 and not end:
            return  # the file has no further bytes
        if response.status_code == 200 and end:
            problem = "the server sent the whole file instead of a part (HTTP 200), but dataset.limit needs parts"
            raise UserError(f"{url}: {problem}. Set dataset.limit to null, or use another dataset.mirror.")
        if response.status_code not in (200, 206):
            raise UserError(f"{url}: the server answered HTTP {response.status_code}. Check dataset.mirror.")
        if response.status_code == 200 and start:  # the server sends the whole file
            client.on_progress(-sink.tell())
            sink.seek(0)
            sink.truncate()
        # read1 returns what has arrived, so that a broken connection loses nothing.
        while chunk := response.raw.read1(min(_CHUNK, length - sink.tell())):
            if client.stop.is_set():
                raise CancelledError
            sink.write(chunk)
            sink.flush()
            client.on_progress(len(chunk))


def _cause(error: BaseException) -> str:
    """Return the innermost cause in one short line; requests and urllib3 wrap it several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return ascii(str(error) or type(error).__name__)[1:-1][:160]
