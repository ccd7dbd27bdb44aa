"""The demo page: its server, and the page itself in a browser."""

import base64
import io
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lib.app.attention import attention_grid
from lib.app.captioner import Captioner
from tests.browser import chromium, needs_chromium
from tests.pictures import saved
from tests.stages.imports import ROOT

pytest.importorskip("flask", reason="needs the extra `demo`")
pytest.importorskip("waitress", reason="needs the extra `demo`")


def photo(width: int, height: int, kind: str = "JPEG", **options) -> bytes:
    return saved(Image.effect_noise((width, height), 90).convert("RGB"), kind, **options)


@pytest.fixture(scope="module")
def client(models):
    from lib.app.page import create_app

    return create_app(Captioner.load(models["additive"])).test_client()


def test_a_picture_is_answered_with_the_captions_that_the_command_gives(client, models):
    data = photo(90, 60)
    answer = client.post("/caption", data=data).json
    (found,) = Captioner.load(models["additive"]).caption([Image.open(io.BytesIO(data))])
    assert [each["text"] for each in answer["candidates"]] == [each.text for each in found]
    for told, candidate in zip(answer["candidates"], found, strict=True):
        np.testing.assert_allclose(told["attention"], attention_grid(candidate), rtol=1e-4)
    assert answer["seen"] == [0, 0, 100, 100]


def test_the_picture_comes_back_upright_and_not_too_large(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    uri = client.post("/caption", data=photo(1500, 1200, "PNG", exif=exif)).json["picture"]
    kind, content = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (819, 1024)


@pytest.mark.parametrize("data", [b"", b"hello", photo(90, 60)[:-300]], ids=["empty", "text", "cut"])
def test_what_is_no_picture_gets_a_reason(client, data):
    answer = client.post("/caption", data=data)
    assert answer.status_code == 200
    assert answer.json.keys() == {"error"}
    assert answer.json["error"].startswith("This picture cannot be captioned: ")


def test_too_large_a_request_is_refused_with_the_limit(client):
    answer = client.post("/caption", data=bytes(20 * 2**20 + 1))
    assert answer.status_code == 413
    assert answer.json == {"error": "This file is larger than 20 MB: choose a smaller one."}


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/caption"])
def test_it_does_not_answer_to_a_name_that_is_not_this_machines(client, path):
    assert client.get(path, headers={"Host": "evil.example:8000"}).status_code == 400
    assert client.get(path, headers={"Host": "localhost:8000"}).status_code in (200, 405)


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert not re.search(r"(src|href)=\"?(https?:)?//", page.text)


def test_a_port_that_is_taken_is_told_in_one_line(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "lib.app.demo", "--port", port, "--model", str(models["none"])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: cannot listen on port {port}: .*; choose another with --port\n", done.stderr)


# What a browser does with a file that is dropped on the page. Playwright has no such gesture of its own.
DROP = """([content, times, name, type]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(Array(times).fill(bytes), name, { type }));
    const event = (kind) => new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
    document.getElementById("drop").dispatchEvent(event("dragover"));
    document.getElementById("drop").dispatchEvent(event("drop"));
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def addresses(models):
    """Where the page is, by the model's attention, while the demo runs for each in a process of its own."""
    command = [sys.executable, "-m", "lib.app.demo", "--port", "0", "--model"]
    servers = {
        attention: subprocess.Popen([*command, str(model)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for attention, model in models.items()
    }
    yield {name: re.match(r"http://127\.0\.0\.1:\d+", each.stdout.readline())[0] for name, each in servers.items()}
    for server in servers.values():
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0  # Ctrl-C is how one ends it


@contextmanager
def opened(browser, address: str, **options):
    """The page, with the assurance that nothing went wrong in it and that it asked for nothing elsewhere."""
    page = browser.new_page(**options)
    page.set_default_timeout(120_000)  # ms: a busy machine is no failure
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((f"{address}/", "data:")) else wrong.append(asked.url),
    )
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


def drop(page, content: bytes, name: str, kind: str, times: int = 1) -> None:
    page.evaluate(DROP, [base64.b64encode(content).decode(), times, name, kind])


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_dropped_picture_is_captioned_and_each_word_shows_where_it_looked(browser, models, addresses, width, scheme):
    data = photo(90, 60)
    (found,) = Captioner.load(models["additive"]).caption([Image.open(io.BytesIO(data))])
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with opened(browser, addresses["additive"], **options) as page:
        drop(page, data, "photo.jpg", "image/jpeg")
        page.wait_for_selector("#candidates li")
        shown = [[word.inner_text() for word in item.query_selector_all(".word")]
                 for item in page.query_selector_all("#candidates li")]  # fmt: skip
        assert shown == [candidate.tokens for candidate in found]
        assert f"{found[0].score:.2f}, {found[0].mean_score:.2f} a word" in page.inner_text("#candidates li")
        assert page.evaluate("document.getElementById('picture').naturalWidth") == 90

        heat = page.locator("#heat")
        assert not heat.is_visible()
        page.locator("button.word").nth(1).hover()
        assert heat.is_visible()
        assert heat.bounding_box() == pytest.approx(page.locator("#picture").bounding_box(), abs=1)
        alpha = page.evaluate(
            "Array.from(document.getElementById('heat').getContext('2d').getImageData(0, 0, 4, 4).data)"
            ".filter((_, i) => i % 4 === 3)"
        )
        weights = attention_grid(found[0])[1].flatten()
        np.testing.assert_allclose(np.array(alpha) / 204, weights / weights.max(), atol=0.01)
        page.mouse.move(0, 0)
        assert not heat.is_visible()

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


@needs_chromium
@pytest.mark.slow
def test_a_word_is_tapped_on_a_phone(browser, addresses):
    options = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    with opened(browser, addresses["additive"], **options) as page:
        page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo(90, 60)})
        page.locator("button.word").first.tap()
        assert page.locator("#heat").is_visible()


@needs_chromium
@pytest.mark.slow
def test_what_cannot_be_captioned_is_told_on_the_page_and_the_next_picture_is_captioned(browser, addresses):
    with opened(browser, addresses["none"]) as page:
        error = page.locator("#error")
        drop(page, b"hello", "notes.txt", "text/plain")
        error.get_by_text("This picture cannot be captioned: not an image.").wait_for()
        drop(page, bytes(2**20), "large.jpg", "image/jpeg", times=21)
        error.get_by_text("This file is larger than 20 MB: choose a smaller one.").wait_for()
        assert not page.locator("#result").is_visible()
        drop(page, photo(90, 60), "photo.jpg", "image/jpeg")
        page.wait_for_selector("#candidates li")
        assert not error.is_visible()
        assert page.locator("button.word").count() == 0  # this model does not attend
        assert "does not attend" in page.inner_text("#result")
