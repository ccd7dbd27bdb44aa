"""Downloads from a real server with every fault: what arrives is whole, nothing comes twice, all else is told."""

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
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.core.errors import UserError
from lib.fetch.http import RemoteFile, RetryPolicy, fetch
from tests.servers import serving
from tests.waiting import until

SIZE = 200_000
CONTENT = random.Random(0).randbytes(SIZE)
HASTY = RetryPolicy(connect=5, read=5, tries=3, backoff=0.001)
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")


@pytest.fixture
def server():
    with serving() as running:
        yield running


def remote(server, path="/file.zip", content=CONTENT, **faults) -> RemoteFile:
    server.serve(path, content, **faults)
    return RemoteFile(server.url + path, hashlib.md5(content).hexdigest())


def part_of(file, store, content) -> Path:
    """Leaves in `store` what a killed process would have."""
    store.mkdir(exist_ok=True)
    path = store / f"{file.digest}.part"
    path.write_bytes(content)
    return path


def ranges(server) -> list[str | None]:
    return [request.range for request in server.gets()]


def sent(server) -> int:
    return sum(request.sent for request in server.gets())


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fails(file, store, patience=HASTY) -> str:
    with pytest.raises(UserError) as caught:
        fetch([file], store, patience)
    message = str(caught.value)
    assert "\n" not in message
    assert not (store / file.digest).exists()
    return message


def test_files_come_several_at_once_in_the_order_asked_for_and_never_again(server, tmp_path):
    together = threading.Barrier(3, timeout=5)  # none is answered before all three are asked for
    files = [remote(server, f"/{n}.zip", CONTENT[: n * 1000], before=together.wait) for n in (5, 0, 7)]
    paths = fetch([*files, files[0]], tmp_path / "store", HASTY)
    assert [path.read_bytes() for path in paths] == [CONTENT[: n * 1000] for n in (5, 0, 7, 5)]
    assert sorted(path.name for path in (tmp_path / "store").glob("[!.]*")) == sorted(file.digest for file in files)
    server.requests.clear()
    assert fetch(files, tmp_path / "store", HASTY) == paths[:3]
    assert server.requests == []


@pytest.mark.parametrize(
    ("faults", "silence"),
    [
        ({"cuts": [50_000, 100_000]}, 5),
        ({"stalls": [50_000, 100_000]}, 0.5),
        ({"cuts": [50_000, 100_000], "head": False}, 5),
        ({"cuts": [50_000, 100_000], "length": 1000}, 5),
    ],
    ids=["cut", "stalled", "cut, and no HEAD", "cut, and longer by the header than it is"],
)
def test_a_broken_transfer_goes_on_where_it_was(server, tmp_path, faults, silence):
    file = remote(server, **faults)
    (path,) = fetch([file], tmp_path, RetryPolicy(read=silence, tries=2, backoff=0.001))
    assert path.read_bytes() == CONTENT
    assert ranges(server)[:3] == [None, "bytes=50000-", "bytes=150000-"]
    assert sent(server) == SIZE


def test_a_line_that_makes_progress_may_break_more_often_than_there_are_tries(server, tmp_path):
    file = remote(server, cuts=[10_000] * 19, statuses=[503, 429])
    assert fetch([file], tmp_path, HASTY)[0].read_bytes() == CONTENT
    assert sent(server) == SIZE


@pytest.mark.parametrize(
    ("begun", "faults", "asked"),
    [
        (CONTENT[:70_000], {}, ["bytes=70000-"]),
        (CONTENT, {}, []),
        (CONTENT, {"head": False}, ["bytes=200000-"]),
        (CONTENT[:70_000], {"ranges": False}, ["bytes=70000-"]),
        (CONTENT[:70_000], {"shift": 1}, ["bytes=70000-", None]),
        (CONTENT + b"more", {}, ["bytes=200004-", None]),
        (b"altered" + CONTENT[7:70_000], {}, ["bytes=70000-", None]),
        (b"altered" + CONTENT[7:], {}, [None]),
    ],
    ids=[
        "some of it",
        "all of it",
        "all of it, and no HEAD",
        "the server ignores ranges",
        "the server sends another range",
        "more than the file",
        "corrupt",
        "corrupt and complete",
    ],
)
def test_what_an_earlier_run_left_is_used_if_it_can_be(server, tmp_path, begun, faults, asked):
    file = remote(server, **faults)
    part_of(file, tmp_path, begun)
    assert fetch([file], tmp_path, HASTY)[0].read_bytes() == CONTENT
    assert ranges(server) == asked
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_status_that_may_pass_is_asked_again(server, tmp_path, status):
    file = remote(server, statuses=[status, status], headers={"Retry-After": "0"})
    assert fetch([file], tmp_path, HASTY)[0].read_bytes() == CONTENT
    assert len(server.gets()) == 3


def test_retry_after_is_heeded(server, tmp_path):
    file = remote(server, statuses=[429], headers={"Retry-After": "1"})
    before = time.monotonic()
    fetch([file], tmp_path, HASTY)
    assert time.monotonic() - before >= 1


@pytest.mark.parametrize("url", ["{}/other/name.zip", "/other/name.zip"], ids=["absolute", "relative"])
def test_redirects_are_followed(server, tmp_path, url):
    file = remote(server, "/other/name.zip", cuts=[50_000])
    server.serve("/file.zip", redirect=url.format(server.url))
    assert fetch([RemoteFile(f"{server.url}/file.zip", file.digest)], tmp_path, HASTY)[0].read_bytes() == CONTENT
    assert sent(server) == SIZE


def test_a_mirror_has_all_files_flat_under_their_own_names(server, tmp_path):
    file = RemoteFile("http://nowhere.invalid/zips/train.zip?raw=1", remote(server, "/flat/train.zip").digest)
    assert file.name == "train.zip"
    for mirror in ("/flat", "/flat/"):
        assert file.at(server.url + mirror).url == f"{server.url}/flat/train.zip"
    assert fetch([file.at(f"{server.url}/flat")], tmp_path, HASTY)[0].read_bytes() == CONTENT


def test_the_beginning_of_a_sha256_will_do_in_capitals_too(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()[:8]
    url = remote(server).url
    (path,) = fetch([RemoteFile(url, digest.upper(), "sha256")], tmp_path, HASTY)
    assert path == tmp_path / digest


@pytest.mark.parametrize(
    ("digest", "algorithm"), [("../../etc/passwd", "sha256"), ("", "sha256"), ("abcdefg1", "sha256"), ("0" * 31, "md5")]
)
def test_what_is_no_digest_is_told(digest, algorithm):
    with pytest.raises(UserError, match=f"no {algorithm} digest"):
        RemoteFile("http://127.0.0.1/a.zip", digest, algorithm)


@pytest.mark.parametrize(
    ("faults", "message", "asked"),
    [
        ({"statuses": [404]}, r"no such file \(HTTP 404\): check dataset\.mirror or the URL", 1),
        ({"statuses": [403]}, r"refuses \(HTTP 403\)", 1),
        ({"statuses": [400]}, "HTTP 400", 1),
        ({"statuses": [304]}, "HTTP 304", 1),
        ({"statuses": [500] * 9}, "HTTP 500, 3 times in a row: check the network", 3),
        ({"cuts": [0] * 9}, r"breaks \(IncompleteRead.*3 times in a row", 3),
        ({"cuts": [50_000] * 9, "ranges": False}, "3 times in a row", 4),
        ({"cuts": [50_000, 0, 0, 0]}, "3 times in a row", 4),
        ({"length": -1000}, "the md5 is [0-9a-f]{32}, and should be", 1),
        ({"redirect": "http://[bad"}, "check dataset.mirror or the URL", 1),
        ({"redirect": "file:///etc/passwd"}, "check dataset.mirror or the URL", 1),
        ({"redirect": "/file.zip"}, "30 redirects", 31),
        ({"raw": b"HTTP/1.1 what OK\r\n\r\n"}, r"no proper answer \(HTTP/1.1 what OK\)", 3),
        ({"raw": b""}, r"no proper answer \(Remote end closed connection", 3),
        ({"raw": b"\x1b[2J\r\n\xff" * 9}, "no proper answer", 3),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"}, "unmatching values", 1),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\nx"}, "md5", 1),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx"}, "md5", 1),
        ({"raw": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10\r\n\r\n" + b"x" * 99}, "more bytes than", 3),
        ({"raw": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 9-0/x\r\n\r\nx"}, "another range", 3),
        ({"raw": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx"}, "breaks", 3),
        ({"raw": b"HTTP/1.1 302 Found\r\nLocation: http://\xff\x00/\r\nContent-Length: 9\r\n\r\n"}, "127.0.0.1", None),
    ],
)
def test_a_server_that_does_not_give_the_file_is_told_in_one_line(server, tmp_path, faults, message, asked):
    file = remote(server, **faults)
    text = fails(file, tmp_path)
    assert text.startswith(file.url)
    assert text.isprintable()
    assert re.search(message, text), text
    assert asked is None or len(server.gets()) == asked


@pytest.mark.parametrize(
    ("begun", "cuts", "asked"),
    [
        (b"", [], [None]),
        (CONTENT[:70_000], [], ["bytes=70000-", None]),
        (b"", [50_000, SIZE, 60_000], [None, "bytes=50000-", None, "bytes=60000-"]),
    ],
    ids=["fresh", "resumed", "resumed again and again"],
)
def test_another_file_than_expected_is_never_kept_and_a_resumed_one_is_fetched_once_more(
    server, tmp_path, begun, cuts, asked
):
    other = bytes(SIZE)
    file = remote(server)
    server.serve("/file.zip", other, cuts=cuts)
    part_of(file, tmp_path, begun)
    message = fails(file, tmp_path)
    assert f"the md5 is {hashlib.md5(other).hexdigest()}, and should be {file.digest}" in message
    assert "try another dataset.mirror" in message
    assert ranges(server) == asked
    assert not list(tmp_path.glob("*.part"))


def test_a_server_that_is_not_there_is_told(server, tmp_path):
    file = remote(server)
    server.server_close()
    assert "no proper answer ([Errno" in fails(file, tmp_path)


@pytest.mark.parametrize("faults", [{"pace": 0.01}, {"stalls": [40_960]}], ids=["busy", "in a silent connection"])
def test_when_one_file_fails_the_others_stop_and_keep_what_they_have(server, tmp_path, faults):
    slow = remote(server, "/slow.zip", random.Random(1).randbytes(10 * SIZE), **faults)
    part = tmp_path / f"{slow.digest}.part"
    gone = remote(server, "/gone.zip", statuses=[404], before=lambda: until(lambda: size(part) >= 40_960))
    patience = RetryPolicy(read=60, connections=2)
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"gone\.zip.*HTTP 404"):
        fetch([slow, gone], tmp_path, patience)
    assert time.monotonic() - begun < 30
    assert server.pages["/slow.zip"].content.startswith(part.read_bytes())
    assert size(part) < 10 * SIZE


@POSIX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_process_that_is_ended_leaves_parts_from_which_the_next_goes_on(server, tmp_path, number):
    files = [
        remote(server, "/a.zip", CONTENT, stalls=[50_000]),
        remote(server, "/b.zip", CONTENT[::-1], stalls=[90_000]),
    ]
    parts = [tmp_path / f"{file.digest}.part" for file in files]
    code = (
        "import sys, pathlib; from lib.fetch.http import RemoteFile, fetch; "
        "fetch([RemoteFile(*pair.split()) for pair in sys.argv[2:]], pathlib.Path(sys.argv[1]))"
    )
    pairs = [f"{file.url} {file.digest}" for file in files]
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *pairs], stderr=subprocess.PIPE) as process:
        try:
            until(lambda: [size(part) for part in parts] == [50_000, 90_000])
            process.send_signal(number)
            _, err = process.communicate(timeout=30)  # half of how long a server may stay silent
        finally:
            process.kill()
    assert process.returncode == -number
    assert number == signal.SIGKILL or b"KeyboardInterrupt" in err
    paths = fetch(files, tmp_path, HASTY)
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT[::-1]]
    assert sent(server) == 2 * SIZE
    assert sorted(filter(None, ranges(server))) == ["bytes=50000-", "bytes=90000-"]


def test_one_that_wants_what_another_process_is_fetching_waits_for_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    file = remote(server, before=lambda: until(lambda: "waiting for another process" in screen.getvalue()))
    threads = [threading.Thread(target=fetch, args=([file], tmp_path, HASTY)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / file.digest).read_bytes() == CONTENT
    assert len(server.requests) == 2  # HEAD and GET


def test_room_on_the_disk_is_checked_before_the_first_byte_and_counts_what_is_there(server, tmp_path, monkeypatch):
    file, other = remote(server, "/a.zip"), remote(server, "/b.zip", CONTENT[::-1])
    part_of(file, tmp_path, CONTENT[:150_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SIZE + 49_999))
    with pytest.raises(UserError, match=r"needs 0\.00 GB in .*, where 0\.00 GB are free: make room and run again"):
        fetch([file, other], tmp_path, HASTY)
    assert server.gets() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SIZE + 50_000))
    fetch([file, other], tmp_path, HASTY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_fills_up_is_told(server, tmp_path):
    file = remote(server)
    (tmp_path / f"{file.digest}.part").symlink_to("/dev/full")
    assert "is full: make room and run again: what has arrived is kept" in fails(file, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs a mount, for which one must be root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_after_the_disk_was_full_it_goes_on_from_there(server, small_disk):
    file = remote(server, head=False)
    assert "is full" in fails(file, small_disk)
    kept = size(small_disk / f"{file.digest}.part")
    assert 50_000 < kept <= 128 * 1024
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert fetch([file], small_disk, HASTY)[0].read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={kept}-"]


def test_a_store_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert f"cannot write {tmp_path / 'file'}" in fails(remote(server), tmp_path / "file" / "store")
