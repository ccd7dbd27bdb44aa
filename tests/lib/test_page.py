"""The report's page in a real browser: order, search, where the model looked, wild captions; no request goes out."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from lib.report.gallery import RANKED_BY
from lib.report.sprites import PER_ROW
from lib.vision.preprocess import Preprocess
from tests.browser import chromium, needs_chromium
from tests.lib.pages import FIRST_ID, write_report
from tests.lib.test_report import WILD, write_zip

pytestmark = [needs_chromium, pytest.mark.slow]

PICTURES = PER_ROW**2 + 36  # more than a sheet, and more than the cards that are made at first
ANIMALS = ["dog", "cat", "horse"]
CAPTIONS = [f"a {ANIMALS[i % 3]} with the number {i}" for i in range(PICTURES)]
REFERENCES = [
    [f"Photo {i}: one hot{ANIMALS[i % 3]}.", "Élan, and zebras" if i == 7 else "Nothing."] for i in range(PICTURES)
]


def colour_of(number: int) -> tuple[int, int, int]:
    return 40 + 2 * number, 240 - 2 * number, 128


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A report of pictures in plain colours, tall and wide in turn; (its folder, its table of images)."""
    folder = tmp_path_factory.mktemp("site")
    pictures = [Image.new("RGB", (60, 40) if i % 2 else (40, 60), colour_of(i)) for i in range(PICTURES)]
    members = write_zip(folder / "a.zip", pictures)
    return folder / "report", write_report(folder / "report", folder / "a.zip", members, CAPTIONS, REFERENCES, places=9)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser):
    """Opens a page, and in the end checks that nothing went wrong in it and nothing was asked of a network."""
    contexts, wrong = [], []

    def open_page(folder, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # ms: a busy machine is no failure
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto((folder / "index.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def shown_ids(page) -> list[int]:
    return [int(text.removeprefix("#")) for text in page.locator(".cards .id").all_inner_texts()]


def scroll_to_the_end(page) -> list[int]:
    """The ids of all cards, once there is one for each picture that was found."""
    page.wait_for_function("""() => {
        scrollTo(0, document.body.scrollHeight);
        return document.querySelectorAll(".cards > li").length === parseInt(document.querySelector("output").value);
    }""")
    return shown_ids(page)


def order_by(page, name: str) -> None:
    page.get_by_text(name, exact=True).click()


def test_cards_are_made_as_one_comes_to_them_and_all_in_the_end(opened, site):
    page = opened(site[0])
    assert page.locator("output").inner_text() == f"{PICTURES} of {PICTURES} pictures"
    assert len(shown_ids(page)) < PICTURES
    assert scroll_to_the_end(page) == site[1]["image_id"].tolist()


@pytest.mark.parametrize("score", [0, 1], ids=RANKED_BY[:2])
def test_best_and_worst_are_ordered_by_the_score_asked_for(opened, site, score):
    page, each = opened(site[0]), site[1].round(3)
    page.get_by_label("Score").select_option(str(score))
    for order, ascending in (("Worst", True), ("Best", False)):
        order_by(page, order)
        ranked = each.sort_values(RANKED_BY[score], ascending=ascending, kind="stable")
        assert scroll_to_the_end(page) == ranked["image_id"].tolist()
        best = ranked[RANKED_BY[score]].iloc[0]
        assert page.locator(".score").first.inner_text() == f"{['CIDEr-D', 'BLEU-4'][score]} {best:.2f}"
    order_by(page, "By id")
    assert scroll_to_the_end(page) == each["image_id"].tolist()


def test_the_random_order_has_every_picture_and_is_the_same_each_time(opened, site):
    orders = []
    for _ in range(2):
        page = opened(site[0])
        order_by(page, "Random")
        orders.append(scroll_to_the_end(page))
    assert orders[0] == orders[1] != sorted(orders[0])
    assert sorted(orders[0]) == site[1]["image_id"].tolist()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("DOG", range(0, PICTURES, 3)),  # but no hotdog
        ("hotcat", range(1, PICTURES, 3)),  # in a reference
        ("number dog 6", [6, 60, 63, 66, 69]),  # the words that begin so, in any order
        ("“élan”, zeb", [7]),
        ("7:", [7, *range(70, 80)]),
        ("aardvark", []),
        (" ... ", range(PICTURES)),
    ],
)
def test_search_finds_words_of_captions_and_references(opened, site, query, found):
    page = opened(site[0])
    page.get_by_role("searchbox").fill(query)
    assert page.locator("output").inner_text() == f"{len(found)} of {PICTURES} pictures"
    assert scroll_to_the_end(page) == [FIRST_ID + i for i in found]


def test_a_search_keeps_the_order_and_shows_the_references(opened, site):
    page = opened(site[0])
    order_by(page, "Best")
    page.get_by_role("searchbox").fill("horse")
    each = site[1].iloc[2::3]
    assert scroll_to_the_end(page) == each.sort_values("cider_d", ascending=False)["image_id"].tolist()
    assert page.locator("details").first.get_attribute("open") is not None
    page.get_by_role("searchbox").press("Enter")  # a form that is sent would load the page anew
    assert page.get_by_role("searchbox").input_value() == "horse"


def test_each_card_shows_its_own_picture(opened, site):
    page = opened(site[0])
    scroll_to_the_end(page)
    for i in (0, 1, 9, PER_ROW**2 - 1, PER_ROW**2, PICTURES - 1):
        picture = page.locator(".picture").nth(i)
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete", arg=picture.locator("img").element_handle())
        box = picture.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(1.5 if i % 2 else 2 / 3, rel=0.02)
        pixels = pixels_of(picture)
        assert np.abs(pixels - np.array(colour_of(i))).max() < 12, i
        assert picture.locator("img").get_attribute("alt") == REFERENCES[i][0]


def pixels_of(element) -> np.ndarray:
    """What an element looks like, without the round corners of its frame: (height, width, 3)."""
    pixels = np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)
    return pixels[8:-8, 8:-8]


def attention_of(site, number: int, word: int) -> np.ndarray:
    """The weights of a word of a caption as gallery.js has them, (3, 3)."""
    line = (site[0] / "gallery.js").read_text().splitlines()[2 + number]
    digits = json.loads(line.removesuffix(","))["looked"][word]
    return np.array([int(digit, 36) for digit in digits]).reshape(3, 3)


def heat(page, number: int) -> np.ndarray | None:
    """The red of the canvas over a picture, place by place; None while it is hidden."""
    canvas = page.locator("canvas").nth(number)
    if not canvas.is_visible():
        return None
    script = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
    return np.array(canvas.evaluate(script)).reshape(3, 3)


def same_order(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `a` is the larger where `b` is."""
    differences = (a.ravel()[:, None] - a.ravel()) * (b.ravel()[:, None] - b.ravel())
    return bool((differences >= 0).all())


def test_a_word_under_the_pointer_shows_where_the_model_looked(opened, site):
    page = opened(site[0])
    card = page.locator(".cards > li").nth(3)
    assert heat(page, 3) is None
    card.get_by_role("button", name="dog").hover()
    assert same_order(heat(page, 3), attention_of(site, 3, 1))
    card.get_by_role("button", name="number").hover()
    assert same_order(heat(page, 3), attention_of(site, 3, 4))
    canvas, picture = page.locator("canvas").nth(3).bounding_box(), page.locator(".picture").nth(3).bounding_box()
    assert canvas == pytest.approx(picture, abs=0.5)
    page.mouse.move(0, 0)
    assert heat(page, 3) is None


def test_where_it_looked_is_within_what_the_cnn_was_shown(opened, tmp_path):
    members = write_zip(tmp_path / "a.zip", [Image.new("RGB", (200, 100))])
    crop = Preprocess(40, (0.5,) * 3, (0.5,) * 3, resize=50)  # the middle 80 x 80 pixels of 200 x 100
    write_report(tmp_path / "report", tmp_path / "a.zip", members, ["a dog"], [["a"]], 9, crop)
    page = opened(tmp_path / "report")
    page.get_by_role("button", name="dog").hover()
    picture, heat = page.locator(".picture").bounding_box(), page.locator("canvas").bounding_box()
    assert heat["width"] / picture["width"] == pytest.approx(0.4, abs=0.01)
    assert heat["height"] / picture["height"] == pytest.approx(0.8, abs=0.01)
    assert (heat["x"] - picture["x"]) / picture["width"] == pytest.approx(0.3, abs=0.01)
    assert (heat["y"] - picture["y"]) / picture["height"] == pytest.approx(0.1, abs=0.01)


def test_the_keyboard_goes_from_card_to_card_and_from_word_to_word(opened, site):
    page = opened(site[0])
    words = page.locator(".cards > li").nth(2).locator(".caption button")
    page.locator(".cards > li").nth(1).locator("summary").focus()
    page.keyboard.press("Tab")
    focused = "element => element === document.activeElement"
    assert words.first.evaluate(focused)
    page.keyboard.press("ArrowRight")
    assert words.nth(1).evaluate(focused)
    assert same_order(heat(page, 2), attention_of(site, 2, 1))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is nothing before the first
    assert words.first.evaluate(focused)
    page.keyboard.press("Tab")
    assert page.locator(".cards > li").nth(2).locator("summary").evaluate(focused)
    assert heat(page, 2) is None


def test_on_a_phone_a_tap_shows_it_and_nothing_is_wider_than_the_screen(opened, site):
    page = opened(site[0], viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".cards > li").nth(1).get_by_role("button", name="cat").tap()
    assert same_order(heat(page, 1), attention_of(site, 1, 1))


def test_the_page_follows_the_light(opened, site):
    def background(scheme: str) -> int:
        page = opened(site[0], color_scheme=scheme)
        return int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    assert background("light") > 240
    assert background("dark") < 40


@pytest.mark.parametrize("places", [0, 4])
def test_wild_captions_are_text(opened, tmp_path, places):
    members = write_zip(tmp_path / "a.zip", [Image.new("RGB", (40, 40))] * len(WILD))
    write_report(
        tmp_path / "report", tmp_path / "a.zip", members, WILD, [[caption, "plain"] for caption in WILD], places
    )
    page = opened(tmp_path / "report", viewport={"width": 390, "height": 844})
    assert page.evaluate("window.hacked") is None
    cards = page.locator(".cards > li")
    for number, caption in enumerate(WILD):
        words = " ".join(caption.split())
        text = " ".join(cards.nth(number).locator(".caption").text_content().split())
        assert text == (words or "(no words)")
        assert " ".join(cards.nth(number).locator("details li").first.text_content().split()) == words
        assert cards.nth(number).bounding_box()["height"] < 800
    assert cards.nth(2).locator(".caption").evaluate("element => getComputedStyle(element).direction") == "rtl"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_one_picture_is_shown_too(opened, tmp_path):
    members = write_zip(tmp_path / "a.zip", [Image.new("RGB", (40, 40))])
    write_report(tmp_path / "report", tmp_path / "a.zip", members, ["a"], [["a"]])
    page = opened(tmp_path / "report")
    assert page.locator("output").inner_text() == "1 of 1 pictures"
    assert page.locator("summary").inner_text() == "1 reference"


def test_without_its_data_the_page_says_what_is_missing(browser, site, tmp_path):
    (tmp_path / "index.html").write_bytes((site[0] / "index.html").read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    assert page.locator("output").inner_text() == "The file gallery.js is not beside this page."
    page.close()
