"""An HTTP server on 127.0.0.1 with the faults of real servers."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

_STEP = 2**12  # bytes sent at once


@dataclass
class Page:
    """A file and its faults. Each GET takes one entry from each list until the list is empty."""

    content: bytes = b""
    statuses: list[int] = field(default_factory=list)  # sent instead of the file
    cuts: list[int] = field(default_factory=list)  # bytes of the body after which the connection ends
    stalls: list[int] = field(default_factory=list)  # bytes of the body after which the server stays silent
    head: bool = True  # whether HEAD reports the length
    ranges: bool = True  # whether the server supports Range
    length: int = 0  # this number is added to the true Content-Length
    misplace: int = 0  # bytes by which a range starts too late
    redirect: str = ""  # the URL to redirect to
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # bytes sent instead of an HTTP response
    before: Callable[[], object] = lambda: None  # called before the response to a GET
    pace: float = 0.0  # seconds before each 4 KiB


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    sent: int = 0  # bytes of the body


class Server(ThreadingHTTPServer):
    """Serve `pages` by path, and log each request in `requests`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def serve(self, path: str, content: bytes = b"", **faults) -> Page:
        self.pages[path] = Page(content, **faults)
        return self.pages[path]

    def gets(self, path: str | None = None) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and path in (None, request.path)]

    def handle_error(self, request, client_address) -> None:
        """Print nothing, because the tests break connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._log()
        page = self.server.pages.get(self.path)
        if page is None or page.redirect or not page.head:
            self._reply(404 if page is None else 302 if page.redirect else 405, page)
        else:
            self._reply(200, page, len(page.content))

    def do_GET(self) -> None:
        request = self._log()
        page = self.server.pages.get(self.path)
        if page is None:
            return self._reply(404)
        page.before()
        if page.raw is not None:
            self.close_connection = True
            self.wfile.write(page.raw)
            return None
        if page.statuses or page.redirect:
            return self._reply(page.statuses.pop(0) if page.statuses else 302, page)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "") if page.ranges else None
        size, start = len(page.content), int(match[1]) + page.misplace if match else 0
        end = min(int(match[2]) + 1, size) if match and match[2] else size
        if match and start >= size:
            return self._reply(416, **{"Content-Range": f"bytes */{size}"})
        ranged = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if match else {}
        self._reply(206 if match else 200, page, end - start + page.length, **ranged)
        return self._body(page, page.content[start:end], request)

    def _body(self, page: Page, body: bytes, request: Request) -> None:
        cut = page.cuts.pop(0) if page.cuts else len(body)
        stall = page.stalls.pop(0) if page.stalls else len(body)
        self.close_connection = cut < len(body) or page.length != 0
        for offset in range(0, min(cut, stall), _STEP):
            if page.pace and self.server.closing.wait(page.pace):
                return
            step = body[offset : min(offset + _STEP, cut, stall)]
            self.wfile.write(step)
            request.sent += len(step)
        if stall < len(body):
            self.server.closing.wait()

    def _log(self) -> Request:
        self.server.requests.append(Request(self.command, self.path, self.headers["Range"]))
        return self.server.requests[-1]

    def _reply(self, status: int, page: Page | None = None, length: int = 0, **headers: str) -> None:
        """Send a status and headers; with a `page` also its own headers and, for a redirect, its location."""
        if page:
            headers |= page.headers | ({"Location": page.redirect} if status == 302 else {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Yield a running server. Requests to 127.0.0.1 bypass any proxy."""
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
