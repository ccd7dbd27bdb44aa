"""The demo page: its server, and the page in a browser."""

import base64
import io
import re
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image

from lib.app.captioner import Captioner
from lib.report.gallery import encode_attention
from tests.browser import chromium, heat_map, needs_chromium, open_page
from tests.pictures import saved
from tests.stages.imports import ROOT

for name in ("flask", "waitress"):
    pytest.importorskip(name, reason="needs the extra `demo`")


PHOTO = saved(Image.effect_noise((90, 60), 90).convert("RGB"), "JPEG")


@pytest.fixture(scope="module")
def client(models):
    from lib.app.demo import create_app

    return create_app(Captioner.load(models["additive"])).test_client()


def test_the_server_returns_the_captions_of_captioner(client, models):
    answer = client.post("/caption", data=PHOTO).json
    (candidates,) = Captioner.load(models["additive"]).caption([Image.open(io.BytesIO(PHOTO))])
    expected = [c.to_json() | {"attention": encode_attention(c.attention.numpy())} for c in candidates]
    assert answer["candidates"] == expected
    assert answer["cropBox"] == [0, 0, 100, 100]


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty"), (b"hello", "not an image"), (PHOTO[:-300], "decoded"), (bytes(20 * 2**20 + 1), "20 MB"),
], ids=["empty", "text", "cut", "large"])  # fmt: skip
def test_an_upload_that_is_no_image_or_too_large_gets_a_reason(client, data, reason):
    answer = client.post("/caption", data=data)
    assert answer.status_code == 200
    assert answer.json.keys() == {"error"}
    assert reason in answer.json["error"]


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/shared/heatmap.js", "/caption"])
def test_the_server_answers_only_to_the_names_of_this_machine(client, path):
    assert client.get(path, headers={"Host": "evil.example:8000"}).status_code == 400
    assert client.get(path, headers={"Host": "localhost:8000"}).status_code in (200, 405)


def test_the_page_loads_nothing_from_other_servers(client):
    page = client.get("/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert not re.search(r"(src|href)=\"?(https?:)?//", page.text)


def test_a_port_in_use_is_a_one_line_error(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "lib.app.demo", "--port", port, "--model", str(models["none"])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(f"error: --port {port}: .*\n", done.stderr)


# Simulate a dropped file by events, because Playwright cannot drop files.
DROP = """([content, times, name, type]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
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
    """Yield attention -> URL of a demo process whose model has this attention."""
    command = [sys.executable, "-m", "lib.app.demo", "--port", "0", "--model"]
    servers = {
        attention: subprocess.Popen([*command, str(model)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for attention, model in models.items()
    }
    yield {name: re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0] for name, server in servers.items()}
    for server in servers.values():
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0


def drop(page, content: bytes, name: str, kind: str, times: int = 1) -> None:
    page.evaluate(DROP, [base64.b64encode(content).decode(), times, name, kind])


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_dropped_image_is_captioned_and_each_word_shows_its_heat_map(browser, models, addresses, width, scheme):
    (candidates,) = Captioner.load(models["additive"]).caption([Image.open(io.BytesIO(PHOTO))])
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with open_page(browser, addresses["additive"], **options) as page:
        drop(page, PHOTO, "photo.jpg", "image/jpeg")
        page.wait_for_selector("#candidates li")
        words = [item.query_selector_all("button") for item in page.query_selector_all("#candidates li")]
        assert [[word.inner_text() for word in line] for line in words] == [c.tokens for c in candidates]
        best = candidates[0]
        assert f"{best.score:.2f}, {best.mean_score:.2f} per word" in page.inner_text("#candidates li")
        page.wait_for_function("document.getElementById('image').naturalWidth === 90")

        canvas = page.locator("canvas")
        assert heat_map(canvas) is None
        words[0][1].hover()
        assert heat_map(canvas) == pytest.approx(best.attention[1].numpy() / best.attention[1].max().item(), abs=0.03)
        assert canvas.bounding_box() == pytest.approx(page.locator("#image").bounding_box(), abs=1)
        page.mouse.move(0, 0)
        assert heat_map(canvas) is None

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


@needs_chromium
@pytest.mark.slow
def test_a_tap_on_a_phone_shows_the_heat_map(browser, addresses):
    options = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    with open_page(browser, addresses["additive"], **options) as page:
        page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": PHOTO})
        page.locator("#candidates button").first.tap()
        assert page.locator("canvas").is_visible()


@needs_chromium
@pytest.mark.slow
def test_the_page_shows_errors_and_then_captions_the_next_image(browser, addresses):
    with open_page(browser, addresses["none"]) as page:
        error = page.locator("#error")
        drop(page, b"hello", "notes.txt", "text/plain")
        error.get_by_text("This image cannot be captioned: not an image.").wait_for()
        drop(page, bytes(2**20), "large.jpg", "image/jpeg", times=21)
        error.get_by_text("This file is larger than 20 MB").wait_for()
        assert not page.locator("#result").is_visible()
        drop(page, PHOTO, "photo.jpg", "image/jpeg")
        page.wait_for_selector("#candidates li")
        assert error.inner_text() == ""
        assert page.locator("#candidates button").count() == 0
        assert "no attention" in page.inner_text("#result")
