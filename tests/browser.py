"""Chromium, headless, driven by playwright. Install it with `apt-get install chromium`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser. Skip the test if playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        # --no-sandbox, because the sandbox does not work for root
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """Open the page at a URL. At the end, check that it had no errors and no request to another server."""
    own = ("{0.scheme}://{0.netloc}/".format(urlsplit(address)), "data:", "blob:")
    page, errors = browser.new_page(**options), []
    page.set_default_timeout(120_000)  # ms, for a busy machine
    page.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith(own) or errors.append(request.url))
    page.goto(address)
    yield page
    page.close()
    # Chromium warns when a test itself reads a canvas twice.
    assert [error for error in errors if "willReadFrequently" not in error] == []


def heat_map(canvas: Any) -> np.ndarray | None:
    """Return the weights (P,) that heatmap.js drew on a canvas, or None if it is hidden."""
    if not canvas.is_visible():
        return None
    data = np.array(canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"))
    red, alpha = data[::4], data[3::4]
    weights = (190 - alpha) / 120
    np.testing.assert_allclose(red, 20 + 235 * weights, atol=4)
    return weights
