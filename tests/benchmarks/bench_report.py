"""The report of a test split of COCO's size: to make, and to open. `make bench` prints it; no figure decides a test."""

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
PICTURES, FEWER = 5_000, 1_000
PLACES = 14 * 14
SHOWN = "() => [...document.querySelectorAll('.cards img')].slice(0, 8).every((image) => image.complete)"

pytestmark = needs_realdata


def report(folder: Path, pictures: int, prepare: bool = False) -> None:
    """A page of so many photographs of COCO, which recur, each with five captions, and the first as the model's."""
    if prepare:
        return
    texts: dict[int, list[str]] = {}
    for row in json.loads(CAPTIONS.read_bytes())["annotations"]:
        texts.setdefault(row["image_id"], []).append(row["caption"])
    references = list(texts.values())[:pictures]
    with zipfile.ZipFile(PHOTOGRAPHS) as archive:
        members = cycle(name for name in archive.namelist() if name.endswith(".jpg"))
    write_report(
        folder, PHOTOGRAPHS, list(islice(members, pictures)), [first for first, *_ in references], references, PLACES
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The large report's folder, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("large")
    start = time.perf_counter()
    report(folder, PICTURES)
    return folder, time.perf_counter() - start


def test_to_make_it(large, capsys):
    folder, seconds = large
    sizes = [path.stat().st_size / 1e6 for path in folder.iterdir()]
    with capsys.disabled():
        print(f"\nreport of {PICTURES} photographs: {seconds:.0f} s, {len(sizes)} files, {sum(sizes):.0f} MB")


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")
def test_memory_as_it_grows(tmp_path, capsys):
    small, large = (growth(report, tmp_path / f"{pictures}", pictures) for pictures in (FEWER, PICTURES))
    with capsys.disabled():
        print(f"\nanonymous memory for {PICTURES} photographs: {large:.0f} MB, for {FEWER}: {small:.0f} MB")


@needs_chromium
def test_to_open_it(large, capsys):
    folder, _ = large
    seconds = {}
    with chromium() as browser:
        page = browser.new_page()
        for what, act in {
            "to open it": lambda: page.goto((folder / "index.html").as_uri()),
            "best first": lambda: page.get_by_label("Order").select_option("best"),
            "a search": lambda: page.get_by_role("searchbox").fill("dog"),
        }.items():
            start = time.perf_counter()
            act()
            page.wait_for_function(SHOWN)
            seconds[what] = time.perf_counter() - start
    with capsys.disabled():
        print("\n" + ", ".join(f"{what}: {time:.2f} s" for what, time in seconds.items()))
