"""The report of a test split of COCO's size: seconds to write and to open it, and memory. `make bench` prints them."""

import json
import time
import zipfile
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.benchmarks.bench_memory import STATUS, growth
from tests.browser import chromium, needs_chromium
from tests.lib.pages import write_report
from tests.realdata import REALDATA, needs_realdata

PHOTOGRAPHS, CAPTIONS = REALDATA / "coco/val2017-sample.zip", REALDATA / "coco/captions_val2017.json"
IMAGES, FEWER = 5_000, 1_000
REGIONS = 14 * 14
LOADED = "() => [...document.querySelectorAll('.cards img')].slice(0, 8).every((image) => image.complete)"

pytestmark = needs_realdata


def report(folder: Path, images: int, prepare: bool = False) -> None:
    """Write a report of repeated photographs of COCO with five captions each. The first is the model's."""
    if prepare:
        return
    texts: dict[int, list[str]] = {}
    for row in json.loads(CAPTIONS.read_bytes())["annotations"]:
        texts.setdefault(row["image_id"], []).append(row["caption"])
    references = list(texts.values())[:images]
    with zipfile.ZipFile(PHOTOGRAPHS) as archive:
        members = cycle(name for name in archive.namelist() if name.endswith(".jpg"))
    captions = [first for first, *_ in references]
    write_report(folder, PHOTOGRAPHS, list(islice(members, images)), captions, references, REGIONS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the folder of the large report, and the seconds to write it."""
    folder, start = tmp_path_factory.mktemp("large"), time.perf_counter()
    report(folder, IMAGES)
    return folder, time.perf_counter() - start


def test_writing(large, show):
    folder, seconds = large
    sizes = [path.stat().st_size / 1e6 for path in folder.iterdir()]
    show(f"report of {IMAGES} photographs: {seconds:.0f} s, {len(sizes)} files, {sum(sizes):.0f} MB")


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")
def test_memory(tmp_path, show):
    few, many = (growth(report, tmp_path / f"{images}", images) for images in (FEWER, IMAGES))
    show(f"anonymous memory for {IMAGES} photographs: {many:.0f} MB, for {FEWER}: {few:.0f} MB")


@needs_chromium
def test_opening(large, show):
    seconds = {}
    with chromium() as browser:
        page = browser.new_page()
        for name, act in {
            "open": lambda: page.goto((large[0] / "index.html").as_uri()),
            "order by best first": lambda: page.get_by_label("Order").select_option("best"),
            "search": lambda: page.get_by_role("searchbox").fill("dog"),
        }.items():
            start = time.perf_counter()
            act()
            page.wait_for_function(LOADED)
            seconds[name] = time.perf_counter() - start
    show(", ".join(f"{name}: {time:.2f} s" for name, time in seconds.items()))
