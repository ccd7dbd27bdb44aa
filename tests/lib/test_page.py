"""The report page in a real browser: order, search, heat maps and malformed captions, without network requests."""

import io
import json
import re
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from lib.report.gallery import PER_ROW, RANKED_BY
from lib.vision.images import Preprocess
from tests.browser import chromium, heat_map, needs_chromium, open_page
from tests.lib.pages import FIRST_ID, report_of
from tests.lib.test_report import MALFORMED

pytestmark = [needs_chromium, pytest.mark.slow]

PICTURES = PER_ROW**2 + 36  # more images than fit on one sprite, and than the page shows at first
ANIMALS = ["dog", "cat", "horse"]
CAPTIONS = [f"a {ANIMALS[i % 3]} with the number {i}" for i in range(PICTURES)]
REFERENCES = [[f"Photo {i}: one hot{ANIMALS[i % 3]}.", "Nothing."] for i in range(PICTURES)]
REFERENCES[7][1] = "Élan, and zebras"
COLOURS = [(40 + 2 * i, 240 - 2 * i, 128) for i in range(PICTURES)]
FOCUSED = "element => element === document.activeElement"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A report with images of one colour each, alternately tall and wide. Return its folder and its table per_image."""
    pictures = [Image.new("RGB", (60, 40) if i % 2 else (40, 60), COLOURS[i]) for i in range(PICTURES)]
    return report_of(tmp_path_factory.mktemp("site"), pictures, CAPTIONS, REFERENCES, regions=9)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser):
    """Open the page of a report with `open_page`, which also makes its checks at the end."""
    with ExitStack() as stack:
        yield lambda folder, **options: stack.enter_context(
            open_page(
                browser, (folder / "index.html").as_uri(), **{"viewport": {"width": 1280, "height": 900}} | options
            )
        )


@pytest.fixture
def page(opened, site):
    return opened(site[0])


def shown_ids(page) -> list[int]:
    return [int(text.removeprefix("#")) for text in page.locator(".cards .id").all_inner_texts()]


def scroll_to_the_end(page) -> list[int]:
    """Wait until each image that was found has a card. Return the ids of all cards."""
    page.wait_for_function("""() => {
        scrollTo(0, document.body.scrollHeight);
        return document.querySelectorAll(".cards > li").length === parseInt(document.querySelector("output").value);
    }""")
    return shown_ids(page)


def order_by(page, name: str) -> None:
    page.get_by_label("Order").select_option(name)


def test_cards_are_added_while_the_user_scrolls(page, site):
    assert page.locator("output").inner_text() == f"{PICTURES} of {PICTURES} images"
    assert len(shown_ids(page)) < PICTURES
    assert scroll_to_the_end(page) == site[1]["image_id"].tolist()


@pytest.mark.parametrize("score", [0, 1], ids=RANKED_BY[:2])
def test_best_and_worst_are_sorted_by_the_selected_score(page, site, score):
    table = site[1].round(3)
    page.get_by_label("Score").select_option(str(score))
    for order, ascending in (("worst", True), ("best", False)):
        order_by(page, order)
        ranked = table.sort_values(RANKED_BY[score], ascending=ascending, kind="stable")
        assert scroll_to_the_end(page) == ranked["image_id"].tolist()
        score_text = f"{['CIDEr-D', 'BLEU-4'][score]} {ranked[RANKED_BY[score]].iloc[0]:.2f}"
        assert page.locator(".score").first.inner_text() == score_text
    order_by(page, "id")
    assert scroll_to_the_end(page) == table["image_id"].tolist()


def test_the_random_order_has_every_image(page, site):
    order_by(page, "random")
    ids = scroll_to_the_end(page)
    assert ids != sorted(ids) == site[1]["image_id"].tolist()


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("DOG", range(0, PICTURES, 3)),  # does not find "hotdog", because a word must start with the search text
        ("hotcat", range(1, PICTURES, 3)),  # occurs only in references
        ("number dog 6", [6, 60, 63, 66, 69]),  # finds words that start with these texts, in any order
        ("“élan”, zeb", [7]),
        ("7:", [7, *range(70, 80)]),
        ("aardvark", []),
        (" ... ", range(PICTURES)),
    ],
)
def test_search_finds_words_of_captions_and_references(page, query, matches):
    page.get_by_role("searchbox").fill(query)
    assert page.locator("output").inner_text() == f"{len(matches)} of {PICTURES} images"
    assert scroll_to_the_end(page) == [FIRST_ID + i for i in matches]


def test_a_search_keeps_the_order_and_shows_the_references(page, site):
    order_by(page, "best")
    page.get_by_role("searchbox").fill("horse")
    table = site[1].iloc[2::3]
    assert scroll_to_the_end(page) == table.sort_values("cider_d", ascending=False)["image_id"].tolist()
    assert page.locator("details").first.get_attribute("open") is not None
    page.get_by_role("searchbox").press("Enter")  # must not submit the form, because that would reload the page
    assert page.get_by_role("searchbox").input_value() == "horse"


def test_each_card_shows_its_own_image(page):
    scroll_to_the_end(page)
    for i in (0, 1, 9, PER_ROW**2 - 1, PER_ROW**2, PICTURES - 1):
        picture = page.locator(".picture").nth(i)
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete", arg=picture.locator("img").element_handle())
        box = picture.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(1.5 if i % 2 else 2 / 3, rel=0.02)
        pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("RGB")).astype(int)
        pixels = pixels[8:-8, 8:-8]  # cuts off the round corners
        assert np.abs(pixels - COLOURS[i]).max() < 12, i
        assert picture.locator("img").get_attribute("alt") == REFERENCES[i][0]


def shows(page, site, card: int, word: int) -> bool:
    """Return whether the heat map of a card shows the attention weights of a word in gallery.js."""
    line = (site[0] / "gallery.js").read_text().splitlines()[2 + card]
    digits = json.loads(line.removesuffix(","))["attention"][word]
    weights = heat_map(page.locator("canvas").nth(card))
    return weights is not None and np.allclose(weights, [int(digit, 36) / 35 for digit in digits], atol=0.01)


def test_a_word_under_the_pointer_shows_its_heat_map(page, site):
    card = page.locator(".cards > li").nth(3)
    assert heat_map(page.locator("canvas").nth(3)) is None
    card.get_by_role("button", name="dog").hover()
    assert shows(page, site, 3, 1)
    card.get_by_role("button", name="number").hover()
    assert shows(page, site, 3, 4)
    canvas, picture = page.locator("canvas").nth(3).bounding_box(), page.locator(".picture").nth(3).bounding_box()
    assert canvas == pytest.approx(picture, abs=0.5)
    page.mouse.move(0, 0)
    assert heat_map(page.locator("canvas").nth(3)) is None


def test_the_heat_map_covers_the_crop_box(opened, tmp_path):
    crop = Preprocess(40, (0.5,) * 3, (0.5,) * 3, resize=50)  # keeps the middle 80 x 80 pixels of 200 x 100
    page = opened(report_of(tmp_path, [Image.new("RGB", (200, 100))], ["a dog"], [["a"]], 9, crop)[0])
    page.get_by_role("button", name="dog").hover()
    picture, heat = page.locator(".picture").bounding_box(), page.locator("canvas").bounding_box()
    left, top, width, height = ((heat[a] - b) / picture[c] for a, b, c in (
        ("x", picture["x"], "width"), ("y", picture["y"], "height"), ("width", 0, "width"), ("height", 0, "height"),
    ))  # fmt: skip
    assert [left, top, width, height] == pytest.approx([0.3, 0.1, 0.4, 0.8], abs=0.01)


def test_the_keyboard_moves_between_cards_and_words(page, site):
    cards = page.locator(".cards > li")
    words = cards.nth(2).locator(".caption button")
    cards.nth(1).locator("summary").focus()
    page.keyboard.press("Tab")
    assert words.first.evaluate(FOCUSED)
    page.keyboard.press("ArrowRight")
    assert words.nth(1).evaluate(FOCUSED)
    assert shows(page, site, 2, 1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # the first word has no word before it
    assert words.first.evaluate(FOCUSED)
    page.keyboard.press("Tab")
    assert cards.nth(2).locator("summary").evaluate(FOCUSED)
    assert heat_map(page.locator("canvas").nth(2)) is None


def test_on_a_phone_a_tap_shows_the_heat_map_and_the_page_fits(opened, site):
    page = opened(site[0], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".cards > li").nth(1).get_by_role("button", name="cat").tap()
    assert shows(page, site, 1, 1)


def test_the_page_follows_the_colour_scheme(opened, site):
    pages = [opened(site[0], color_scheme=scheme) for scheme in ("light", "dark")]
    light, dark = (page.evaluate("getComputedStyle(document.body).backgroundColor") for page in pages)
    assert int(re.search(r"\d+", light)[0]) > 240
    assert int(re.search(r"\d+", dark)[0]) < 40


@pytest.mark.parametrize("regions", [0, 4])
def test_malformed_captions_are_shown_as_text(opened, tmp_path, regions):
    pictures = [Image.new("RGB", (40, 40))] * len(MALFORMED)
    folder, _ = report_of(tmp_path, pictures, MALFORMED, [[caption, "plain"] for caption in MALFORMED], regions)
    page = opened(folder, viewport={"width": 390, "height": 844})
    assert page.evaluate("window.hacked") is None
    cards = [page.locator(".cards > li").nth(number) for number in range(len(MALFORMED))]
    for card, caption in zip(cards, MALFORMED, strict=True):
        words = " ".join(caption.split())
        assert " ".join(card.locator(".caption").text_content().split()) == (words or "(no words)")
        assert " ".join(card.locator("details li").first.text_content().split()) == words
        assert card.bounding_box()["height"] < 800
    assert cards[2].locator(".caption").evaluate("element => getComputedStyle(element).direction") == "rtl"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_ids_are_shown_exactly(opened, tmp_path):
    ids = ["9007199254740993", "photo <b>1</b>.jpg", "00042", "1e3"]
    for name, values in {"text": ids, "number": [2**53 + 1, 2**63 - 1, -(2**63), 7]}.items():
        pictures = [Image.new("RGB", (40, 40))] * len(values)
        (tmp_path / name).mkdir()
        folder, _ = report_of(tmp_path / name, pictures, ["a"] * len(values), [["a"]] * len(values), ids=values)
        assert opened(folder).locator(".cards .id").all_inner_texts() == [f"#{value}" for value in values]


@pytest.mark.parametrize("regions", [0, 4])
def test_words_without_blanks_are_shown_and_found_without_blanks(opened, tmp_path, regions):
    pictures = [Image.new("RGB", (40, 40))] * 2
    tokens, references = [["红", "红", "球", "ab", "cd"], ["小", "狗"]], [["一个红球"], ["一只小狗在跑"]]
    captions = ["红红球ab cd", "小狗"]
    page = opened(report_of(tmp_path, pictures, captions, references, regions, tokens=tokens)[0])
    shown = page.locator(".cards .caption")
    assert shown.all_text_contents() == captions
    assert shown.first.locator("button").all_text_contents() == (tokens[0] if regions else [])
    page.get_by_role("searchbox").fill("小狗在")  # occurs in the middle of a reference
    assert page.locator("output").inner_text() == "1 of 2 images"


def test_a_report_of_one_image_works(opened, tmp_path):
    page = opened(report_of(tmp_path, [Image.new("RGB", (40, 40))], ["a"], [["a"]])[0])
    assert page.locator("output").inner_text() == "1 of 1 images"
    assert page.locator("summary").inner_text() == "References (1)"


def test_the_page_reports_a_missing_gallery_js(browser, site, tmp_path):
    (tmp_path / "index.html").write_bytes((site[0] / "index.html").read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    assert page.locator("output").inner_text().startswith("gallery.js is missing")
    page.close()
