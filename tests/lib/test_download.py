"""Downloads from a real server with every fault: the file is right, or the error is one line."""

import errno
import hashlib
import io
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.core.errors import UserError
from lib.fetch.http import RemoteFile, RetryPolicy, fetch
from tests.servers import serving
from tests.waiting import until

SIZE = 200_000
CONTENT = random.Random(0).randbytes(SIZE)
FAST = RetryPolicy(timeout=5, tries=3, backoff=0.001)


@pytest.fixture
def server():
    with serving() as running:
        yield running


def remote(server, path="/file.zip", content=CONTENT, **faults) -> RemoteFile:
    server.serve(path, content, **faults)
    return RemoteFile(server.url + path, hashlib.md5(content).hexdigest())


def ranges(server) -> list[str | None]:
    return [request.range for request in server.gets()]


def sent(server) -> int:
    return sum(request.sent for request in server.gets())


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fails(file, store, policy=FAST, expected: type[Exception] = UserError) -> str:
    with pytest.raises(expected) as caught:
        fetch([file], store, policy)
    message = str(caught.value)
    assert "\n" not in message
    assert not (store / file.md5).exists()
    return message


def test_files_are_fetched_in_parallel_in_order_and_once(server, tmp_path):
    barrier = threading.Barrier(3, timeout=5)  # no GET is answered before all three have arrived
    files = [remote(server, f"/{n}.zip", CONTENT[: n * 1000], before=barrier.wait) for n in (5, 0, 7)]
    paths = fetch([*files, files[0]], tmp_path / "store", FAST)
    assert [path.read_bytes() for path in paths] == [CONTENT[: n * 1000] for n in (5, 0, 7, 5)]
    assert sorted(path.name for path in (tmp_path / "store").glob("[!.]*")) == sorted(file.md5 for file in files)
    server.requests.clear()
    assert fetch(files, tmp_path / "store", FAST) == paths[:3]
    assert server.requests == []


@pytest.mark.parametrize(
    ("faults", "timeout"),
    [
        ({"stalls": [50_000, 100_000]}, 0.5),
        ({"cuts": [50_000, 100_000], "head": False}, 5),
        ({"cuts": [50_000, 100_000], "length": 1000}, 5),
    ],
    ids=["silent", "broken, without HEAD", "broken, with a wrong Content-Length"],
)
def test_a_broken_transfer_is_resumed(server, tmp_path, faults, timeout):
    file = remote(server, **faults)
    (path,) = fetch([file], tmp_path, RetryPolicy(timeout=timeout, tries=2, backoff=0.001))
    assert path.read_bytes() == CONTENT
    assert ranges(server)[:3] == [None, "bytes=50000-", "bytes=150000-"]
    assert sent(server) == SIZE


def test_a_transfer_that_makes_progress_may_break_more_often_than_there_are_tries(server, tmp_path):
    file = remote(server, cuts=[10_000] * 19, statuses=[503, 429])
    assert fetch([file], tmp_path, FAST)[0].read_bytes() == CONTENT
    assert sent(server) == SIZE


@pytest.mark.parametrize(
    ("part", "faults", "requests"),
    [
        (CONTENT, {}, ["bytes=200000-"]),
        (CONTENT[:70_000], {"ranges": False}, ["bytes=70000-"]),
        (CONTENT[:70_000], {"misplace": 1}, ["bytes=70000-", None]),
        (CONTENT + b"more", {}, ["bytes=200004-", None]),
        (b"altered" + CONTENT[7:70_000], {}, ["bytes=70000-", None]),
        (b"altered" + CONTENT[7:], {}, ["bytes=200000-", None]),
    ],
    ids=["complete", "no ranges", "another range", "too long", "corrupt", "corrupt and complete"],
)
def test_the_part_of_an_earlier_run_is_resumed_or_replaced(server, tmp_path, part, faults, requests):
    file = remote(server, **faults)
    (tmp_path / f"{file.md5}.part").write_bytes(part)
    assert fetch([file], tmp_path, FAST)[0].read_bytes() == CONTENT
    assert ranges(server) == requests
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("statuses", [(408, 500), (429, 503)])
def test_a_transient_status_is_retried_after_the_given_time(server, tmp_path, statuses):
    file = remote(server, statuses=list(statuses), headers={"Retry-After": "1"})
    before = time.monotonic()
    assert fetch([file], tmp_path, FAST)[0].read_bytes() == CONTENT
    assert len(server.gets()) == 3
    assert time.monotonic() - before >= 2


@pytest.mark.parametrize("url", ["{}/other/name.zip", "/other/name.zip"], ids=["absolute", "relative"])
def test_redirects_are_followed(server, tmp_path, url):
    file = remote(server, "/other/name.zip", cuts=[50_000])
    server.serve("/file.zip", redirect=url.format(server.url))
    assert fetch([RemoteFile(f"{server.url}/file.zip", file.md5)], tmp_path, FAST)[0].read_bytes() == CONTENT
    assert sent(server) == SIZE


@pytest.mark.parametrize(
    ("faults", "message", "requests"),
    [
        ({"statuses": [404]}, "HTTP 404", 1),
        ({"statuses": [304]}, "HTTP 304", 1),
        ({"statuses": [500] * 9}, "500", 3),
        ({"statuses": [503], "headers": {"Retry-After": "soon"}}, "Retry-After", 1),
        ({"cuts": [0] * 9}, "broke 3 times", 3),
        ({"cuts": [50_000] * 9, "ranges": False}, "broke 3 times", 3),
        ({"length": -1000}, "MD5", 1),
        ({"redirect": "http://[bad"}, r"dataset\.mirror", 0),
        ({"redirect": "file:///etc/passwd"}, r"dataset\.mirror", 0),
        ({"redirect": "/file.zip"}, "30 redirects", 0),
        ({"raw": b"HTTP/1.1 what OK\r\n\r\n"}, "HTTP/1.1 what OK", 3),
        ({"raw": b""}, "closed connection", 3),
        ({"raw": b"\x1b[2J\r\n\xff" * 9}, "the request failed", 3),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"}, "unmatching values", None),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\nx"}, "MD5", 1),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx"}, "127.0.0.1", None),
        ({"raw": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10\r\n\r\n" + b"x" * 99}, "MD5", 1),
        ({"raw": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 9-0/x\r\n\r\nx"}, "MD5", 1),
        ({"raw": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx"}, "broke 3 times", 3),
        ({"raw": b"HTTP/1.1 302 Found\r\nLocation: http://\xff\x00/\r\nContent-Length: 9\r\n\r\n"}, "127.0.0.1", None),
    ],
)
def test_a_server_that_does_not_send_the_file_is_a_one_line_error(server, tmp_path, faults, message, requests):
    file = remote(server, **faults)
    text = fails(file, tmp_path)
    assert text.startswith(file.url)
    assert text.isprintable()
    assert re.search(message, text), text
    assert requests is None or len(server.gets()) == requests


def test_a_file_with_another_md5_is_not_kept(server, tmp_path):
    other = bytes(SIZE)
    file = remote(server)
    server.serve("/file.zip", other)
    (tmp_path / f"{file.md5}.part").write_bytes(CONTENT[:70_000])
    message = fails(file, tmp_path)
    assert all(part in message for part in (hashlib.md5(other).hexdigest(), file.md5, "dataset.mirror"))
    assert ranges(server) == ["bytes=70000-", None]
    assert not list(tmp_path.glob("*.part"))


def test_a_server_that_is_down_is_a_one_line_error(server, tmp_path):
    file = remote(server)
    server.server_close()
    assert "[Errno" in fails(file, tmp_path)


@pytest.mark.parametrize(
    ("faults", "begun"),
    [
        ({"pace": 0.01}, 40_960),
        ({"stalls": [40_960]}, 40_960),
        ({"statuses": [503], "headers": {"Retry-After": "50"}}, 0),
    ],
    ids=["busy", "silent", "waiting for a retry"],
)
def test_the_first_error_stops_the_other_transfers_and_keeps_their_parts(server, tmp_path, faults, begun):
    slow = remote(server, "/slow.zip", random.Random(1).randbytes(10 * SIZE), **faults)
    part = tmp_path / f"{slow.md5}.part"
    until_begun = partial(until, lambda: server.gets("/slow.zip") and size(part) >= begun)
    gone = remote(server, "/gone.zip", statuses=[404], before=until_begun)
    with pytest.raises(UserError, match=r"gone\.zip.*HTTP 404"):
        fetch([slow, gone], tmp_path, RetryPolicy(timeout=5, connections=2))
    assert len(server.gets("/slow.zip")) == 1
    assert server.pages["/slow.zip"].content.startswith(part.read_bytes())
    assert size(part) < 10 * SIZE


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_process_that_is_ended_leaves_parts_that_the_next_one_resumes(server, tmp_path, number):
    files = [remote(server, "/a.zip", stalls=[50_000]), remote(server, "/b.zip", CONTENT[::-1], stalls=[90_000])]
    parts = [tmp_path / f"{file.md5}.part" for file in files]
    code = (
        "import sys, pathlib; from lib.fetch.http import RemoteFile, fetch; "
        "fetch([RemoteFile(*pair.split()) for pair in sys.argv[2:]], pathlib.Path(sys.argv[1]))"
    )
    pairs = [f"{file.url} {file.md5}" for file in files]
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *pairs], stderr=subprocess.PIPE) as process:
        try:
            until(lambda: [size(part) for part in parts] == [50_000, 90_000])
            process.send_signal(number)
            _, err = process.communicate(timeout=2 * RetryPolicy().timeout)
        finally:
            process.kill()
    assert process.returncode == -number
    assert number == signal.SIGKILL or b"KeyboardInterrupt" in err
    paths = fetch(files, tmp_path, FAST)
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT[::-1]]
    assert sent(server) == 2 * SIZE
    assert sorted(filter(None, ranges(server))) == ["bytes=50000-", "bytes=90000-"]


def test_a_second_process_waits_for_the_first_and_fetches_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    file = remote(server, before=lambda: until(lambda: "waiting for another process" in stderr.getvalue()))
    with ThreadPoolExecutor(2) as pool:
        for fetched in [pool.submit(fetch, [file], tmp_path, FAST) for _ in range(2)]:
            assert fetched.result()[0].read_bytes() == CONTENT
    assert len(server.requests) == 2  # HEAD and GET


def test_the_disk_space_is_checked_before_the_first_byte(server, tmp_path, monkeypatch):
    file, other = remote(server, "/a.zip"), remote(server, "/b.zip", CONTENT[::-1])
    (tmp_path / f"{file.md5}.part").write_bytes(CONTENT[:150_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SIZE + 49_999))
    with pytest.raises(UserError, match="GB free"):
        fetch([file, other], tmp_path, FAST)
    assert server.gets() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SIZE + 50_000))
    fetch([file, other], tmp_path, FAST)


def test_the_progress_bar_counts_the_bytes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    fetch([remote(server, cuts=[50_000])], tmp_path, FAST)
    assert "200k/200k" in stderr.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_os_error(server, tmp_path):  # stages print an OSError in one line
    file = remote(server)
    (tmp_path / f"{file.md5}.part").symlink_to("/dev/full")
    assert f"Errno {errno.ENOSPC}" in fails(file, tmp_path, expected=OSError)


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root on Linux, to mount a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_download_resumes_after_the_disk_was_full(server, small_disk):
    file = remote(server, head=False)
    assert f"Errno {errno.ENOSPC}" in fails(file, small_disk, expected=OSError)
    kept = size(small_disk / f"{file.md5}.part")
    assert 50_000 < kept <= 128 * 1024
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert fetch([file], small_disk, FAST)[0].read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={kept}-"]


def test_an_unwritable_store_is_an_os_error(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in fails(remote(server), tmp_path / "file" / "store", expected=OSError)
