"""A real HTTP server on 127.0.0.1 that serves files with the faults that real ones have."""

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
    """One file, and what goes wrong with it. Of the lists, each GET takes one entry, until none is left."""

    content: bytes = b""
    statuses: list[int] = field(default_factory=list)  # answered instead of the file
    cuts: list[int] = field(default_factory=list)  # bytes of the body after which the connection ends
    stalls: list[int] = field(default_factory=list)  # bytes of the body after which it falls silent
    head: bool = True  # if HEAD is answered with the length
    ranges: bool = True  # if parts are sent when asked for
    length: int = 0  # added to the true Content-Length
    misplace: int = 0  # bytes by which a range starts too late
    redirect: str = ""  # another URL, where the file is
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # sent as it is, in place of an HTTP answer
    before: Callable[[], object] = lambda: None  # called before a GET is answered
    pace: float = 0.0  # seconds before each 4 KiB


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    sent: int = 0  # bytes of the body


class Server(ThreadingHTTPServer):
    """Serves `pages` by path, and logs what it is asked for in `requests`."""

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
        return [one for one in self.requests if one.method == "GET" and path in (None, one.path)]

    def handle_error(self, request, client_address) -> None:
        """Says nothing: clients that go away are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._log()
        page = self.server.pages.get(self.path)
        if page is None or not page.head or page.redirect:
            return self._empty(404 if page is None else 302 if page.redirect else 405, page)
        self.send_response(200)
        self.send_header("Content-Length", str(len(page.content)))
        self.end_headers()
        return None

    def do_GET(self) -> None:
        request = self._log()
        page = self.server.pages.get(self.path)
        if page is None:
            return self._empty(404)
        page.before()
        if page.raw is not None:
            self.close_connection = True
            self.wfile.write(page.raw)
            return None
        if page.statuses:
            return self._empty(page.statuses.pop(0), page)
        if page.redirect:
            return self._empty(302, page)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "") if page.ranges else None
        start = int(asked[1]) + page.misplace if asked else 0
        end = min(int(asked[2]) + 1, len(page.content)) if asked and asked[2] else len(page.content)
        if asked and start >= len(page.content):
            return self._empty(416, page)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(page.content)}")
        self.send_header("Content-Length", str(end - start + page.length))
        self.end_headers()
        return self._body(page, page.content[start:end], request)

    def _body(self, page: Page, body: bytes, request: Request) -> None:
        cut = page.cuts.pop(0) if page.cuts else len(body)
        stall = page.stalls.pop(0) if page.stalls else len(body)
        self.close_connection = cut < len(body) or page.length != 0
        for place in range(0, min(cut, stall), _STEP):
            if page.pace and self.server.closing.wait(page.pace):
                return
            step = body[place : min(place + _STEP, cut, stall)]
            self.wfile.write(step)
            request.sent += len(step)
        if stall < len(body):
            self.server.closing.wait()

    def _log(self) -> Request:
        self.server.requests.append(Request(self.command, self.path, self.headers["Range"]))
        return self.server.requests[-1]

    def _empty(self, status: int, page: Page | None = None) -> None:
        self.send_response(status)
        for name, value in (page.headers if page else {}).items():
            self.send_header(name, value)
        if status == 302 and page:
            self.send_header("Location", page.redirect)
        if status == 416 and page:
            self.send_header("Content-Range", f"bytes */{len(page.content)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments) -> None:
        """Keeps the screen quiet."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server; nothing on 127.0.0.1 is asked for through a proxy meanwhile."""
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
