"""The parts of the report: plots, sprites, the data of the gallery, and the page."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import assume, given, settings, strategies as st
from PIL import Image, ImageColor

from lib.report.figures import COLOURS, Panel, as_svg, draw_contact_sheet, find_fonts, save_png
from lib.report.gallery import MARGIN, PER_ROW, RANKED_BY, SHARED, SIDE, write_gallery, write_sprites
from lib.report.page import write_page
from lib.report.plots import bleu_analysis, compared_curves, gradient_flow, learning_curves
from lib.vision.images import Archives, Preprocess
from tests.lib.pages import CURVES, EMPTY, FIRST_ID, NORMS, WHOLE, per_image, report_of, write_zip

MALFORMED = [
    "", "👩‍🚀 in space 🚀", "كلب يجري في الثلج", "</script><script>window.hacked = 1</script>",
    "\"it's\" `${1}` \\ $5 & <b>", "a\u2028b\u2029c", "x" * 10_000, "word " * 2_000,
]  # fmt: skip


# Figures


TABLE = per_image(["a dog", "a dog runs", "a cat"])
SECTIONS: dict[str, list[Panel]] = {
    "curves": learning_curves(CURVES, 1),
    "bleu": bleu_analysis(TABLE, CURVES, 1),
    "A against B": compared_curves({"A": CURVES, "B": CURVES}),
    "C against D": compared_curves({"C": CURVES, "D": CURVES}),
    "gradients": gradient_flow(NORMS),
}


def test_panels_are_drawn_in_rows_and_the_bytes_are_reproducible(tmp_path):
    for name, columns in (("one", 2), ("two", 2), ("wide", 4)):
        save_png(SECTIONS["bleu"], tmp_path / f"{name}.png", columns)
    one, wide = (Image.open(tmp_path / f"{name}.png").size for name in ("one", "wide"))
    assert (one[0] * 2, one[1]) == (wide[0], wide[1] * 2)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_svg_panels_use_the_colours_and_the_font_of_the_page_and_have_unique_ids():
    ids = []
    for section, panel in [(section, panel) for section, panels in SECTIONS.items() for panel in panels]:
        svg = as_svg(panel, section)
        assert svg == as_svg(panel, section)
        assert not re.search(r"#[0-9a-f]{6}\b|rgb|font-family|http", svg)
        assert {"ink", "muted", "line"} <= set(re.findall(r"var\(--(\w+)\)", svg)) <= set(COLOURS)
        ids += re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) > 0


def test_svg_curves_follow_the_data():
    """Check that the points of the lines in the SVG are an affine map of the data."""
    svg = as_svg(learning_curves(CURVES, 2)[0], "here")
    lines = re.findall(r'd="M ([\d. ]+) \nL ([\d. ]+) \n" clip-path[^>]*stroke: var\(--(orange|blue)\)', svg)
    (train, validation) = ([*map(float, f"{first} {last}".split())] for first, last, _ in lines)
    assert [colour for *_, colour in lines] == ["orange", "blue"]
    assert train[0] == validation[0] < train[2] == validation[2]
    drops = [line[3] - line[1] for line in (train, validation)]  # y increases downwards in SVG
    losses = [CURVES[name][0] - CURVES[name][1] for name in ("train_loss", "val_loss")]
    assert drops[0] / drops[1] == pytest.approx(losses[0] / losses[1], rel=1e-3)


def test_run_names_are_escaped_in_a_plot():
    svg = as_svg(compared_curves({"<b>&": CURVES, "LSTM": CURVES})[0], "here")
    assert "&lt;b&gt;&amp;" in svg
    assert "<b>" not in svg
    ElementTree.fromstring(svg.replace("xlink:", ""))


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as in WCAG 2."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_colours_have_contrast_in_light_and_dark():
    variables = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", (SHARED / "base.css").read_text())
    light, dark = ({name: colours[i] for name, *colours in variables} for i in (0, 1))
    assert light == COLOURS
    for colours in (light, dark):
        for name in COLOURS.keys() - {"page", "well", "line"}:
            darker, lighter = sorted([luminance(colours[name]), luminance(colours["page"])])
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name


def test_a_contact_sheet_accepts_malformed_captions(tmp_path):
    draw_contact_sheet([Image.new("RGB", (30, 20), "red")] * len(MALFORMED), MALFORMED, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 500
        assert 500 < sheet.height < 1500


def write_font(path, letters):
    """Write a font that draws each of `letters` as a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in [(0, 700), (700, 700), (700, 0)]:
        pen.lineTo(point)
    pen.closePath()
    names, square = [".notdef", *map("uni{:04X}".format, map(ord, letters))], pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_captions_are_drawn_with_a_font_that_has_their_letters(tmp_path, monkeypatch):
    write_font(tmp_path / "Chinese test.ttf", "红色小球")
    write_font(tmp_path / "Part test.ttf", "红色")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed = [str(path) for path in sorted(tmp_path.glob("*.ttf"))]
    picture, captions = Image.new("RGB", (30, 20)), ["红色小球", "a red ball 🏀"]
    with monkeypatch.context() as none_installed:
        none_installed.setattr("matplotlib.font_manager.findSystemFonts", list)
        assert find_fonts(captions) == ([], "小球红色")
        assert draw_contact_sheet([picture] * 2, captions, tmp_path / "a.png") == "小球红色"
        assert find_fonts(["Ein Würfel für 5 €", "жёлтый мяч"]) == ([], "")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: installed)
    assert find_fonts(captions) == (["DejaVu Sans", "Chinese test"], "")
    assert find_fonts(["红狗"]) == (["DejaVu Sans", "Chinese test"], "狗")
    assert draw_contact_sheet([picture] * 2, captions, tmp_path / "b.png") == ""
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


# Sprites


def pack(folder, pictures, workers=2):
    """Return the paths of the sprites and the sizes of the thumbnails."""
    folder.mkdir()
    rows = [(i, "a.zip", name) for i, name in enumerate(write_zip(folder / "a.zip", pictures))]
    sizes = write_sprites(rows, Archives(folder), folder, workers)
    return sorted(folder.glob("sprites/*.jpg")), sizes


def test_each_thumbnail_is_in_its_cell_and_keeps_its_shape(tmp_path):
    shapes = [(640, 480), (480, 640), (1000, 10), (30, 20), (1, 1), (SIDE, SIDE)]
    colours = ["red", "lime", "blue", "yellow", "black", "white"]
    pictures = [Image.new("RGB", shape, colour) for shape, colour in zip(shapes, colours, strict=True)]
    (sprite,), sizes = pack(tmp_path / "a", pictures)
    assert sizes == [(220, 165), (165, 220), (220, 2), (30, 20), (1, 1), (220, 220)]
    pixels = np.asarray(Image.open(sprite)).astype(int)
    assert pixels.shape == (SIDE, PER_ROW * SIDE, 3)
    for cell, ((width, height), colour) in enumerate(zip(sizes, colours, strict=True)):
        left = cell * SIDE + MARGIN
        # Include one pixel more on each side, because the edge pixels are repeated around the thumbnail.
        pixels_of_cell = pixels[MARGIN - 1 : MARGIN + height + 1, left - 1 : left + width + 1]
        assert abs(pixels_of_cell - ImageColor.getrgb(colour)).max() < 12, colour


def test_sprites_do_not_depend_on_the_number_of_workers(tmp_path):
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)) for _ in range(PER_ROW**2 + 9)]
    one, other = (pack(tmp_path / f"{workers}", pictures, workers)[0] for workers in (1, 5))
    assert [path.name for path in one] == [path.name for path in other] == ["000.jpg", "001.jpg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert [Image.open(path).height for path in one] == [PER_ROW * SIDE, 2 * SIDE]
    assert pack(tmp_path / "empty", []) == ([], [])


# The gallery's data


def read_gallery(path) -> dict:
    first, rest = path.read_text("utf-8").split(";\n", 1)
    images = rest.removeprefix("galleryData.images = ").removesuffix(",\n];\n") + "]"
    return {**json.loads(first.removeprefix("var galleryData = ")), "images": json.loads(images)}


def gallery_of(tmp_path, captions, attention, **columns) -> list[dict]:
    table = per_image(captions).assign(**columns)
    references = {image_id: [f"reference of {image_id}"] for image_id in table["image_id"]}
    write_gallery(tmp_path, table, references, [(220, 165)] * len(table), attention, WHOLE)
    return read_gallery(tmp_path / "gallery.js")["images"]


def test_attention_weights_are_digits_per_word(tmp_path):
    attention = np.array([[0, 0.5, 0.25, 1], [0.3, 0.3, 0.3, 0.3], [0, 0, 0, 0.1]], np.float16)
    first, none, last = gallery_of(tmp_path, ["a dog", "", "runs"], attention)
    assert first["attention"] == ["0i9z", "zzzz"]
    assert none["attention"] == []
    assert last["attention"] == ["000z"]
    assert last["cropBox"] == [0, 0, 100, 100]


@pytest.mark.parametrize("attention", [np.empty((3, 0)), np.empty((0, 0)), np.ones((3, 1))])
def test_without_several_regions_there_are_no_heat_maps(tmp_path, attention):
    assert all(picture["attention"] == [] for picture in gallery_of(tmp_path, ["a dog", "", "runs"], attention))


def test_scores_and_truth_belong_to_the_image(tmp_path):
    pictures = gallery_of(tmp_path, ["a", "b"], np.empty((2, 0)), true=[True, False])
    assert [picture["true"] for picture in pictures] == [True, False]
    assert [picture["id"] for picture in pictures] == [str(FIRST_ID), str(FIRST_ID + 1)]
    for picture, (_, row) in zip(pictures, per_image(["a", "b"]).iterrows(), strict=True):
        assert picture["scores"] == pytest.approx([row[name] for name in RANKED_BY], abs=5e-4)
        assert picture["references"] == [f"reference of {picture['id']}"]
    assert gallery_of(tmp_path, ["a"], np.empty((1, 0)))[0]["true"] is None


@settings(max_examples=40)
@given(st.integers(40, 300), st.integers(40, 300), st.integers(16, 64), st.one_of(st.none(), st.integers(32, 80)))
def test_the_crop_box_is_the_part_that_the_cnn_sees(width, height, size, resize):
    """In the test image, red is the column and green is the row, so each pixel shows where it comes from."""
    preprocess = Preprocess(size, (0.5,) * 3, (0.5,) * 3, resize)
    left, top, wide, high = preprocess.crop_box((width, height))
    assume(max(wide, high) <= 100)  # a larger crop would go beyond the edges of the image
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels = preprocess.pixels(Image.fromarray(ramp)).astype(float) / 2.55  # per cent
    for axis, (first, extent) in enumerate(((left, wide), (top, high))):
        assert pixels[..., axis].min() == pytest.approx(first, abs=4)
        assert pixels[..., axis].max() == pytest.approx(first + extent, abs=4)


def test_malformed_captions_are_kept(tmp_path):
    pictures = gallery_of(tmp_path, MALFORMED, np.empty((0, 0)))
    assert [picture["words"] for picture in pictures] == [caption.split() for caption in MALFORMED]


# The page


PICTURES = [Image.new("RGB", (64, 48), "red"), Image.new("RGB", (48, 64), "blue")]
REPORT = PICTURES, ["a red picture", ""], [["red"], ["blue", "sea"]], 4


@pytest.fixture
def report(tmp_path):
    return report_of(tmp_path, *REPORT)[0]


def test_the_page_shows_scores_with_intervals_and_loads_nothing_from_the_network(report):
    text = (report / "index.html").read_text("utf-8")
    assert re.search(r"<dt>BLEU-4</dt>\s*<dd>0\.250</dd>\s*<dd>0\.200 to 0\.300</dd>", text)
    assert re.search(r"<dt>Truth</dt>\s*<dd>0\.500</dd>\s*</div>", text)
    assert "<dt>Distinct words</dt><dd>12</dd>" in text
    assert "<dt>Mean length</dt><dd>5.250</dd>" in text
    sources, links, ids = (re.findall(rf'<[^>]* {name}="([^"]*)"', text) for name in ("src", "(?:xlink:)?href", "id"))
    assert sources == ["gallery.js"]
    assert {link.removeprefix("#") for link in links if link != "data:,"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)


def test_the_report_is_reproducible(report, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    again, _ = report_of(tmp_path / "elsewhere", *REPORT, workers=1)
    names = sorted(path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file())
    assert names == ["gallery.js", "index.html", "sprites/000.jpg"]
    for name in names:
        assert (again / name).read_bytes() == (report / name).read_bytes(), name


def test_titles_are_escaped(tmp_path):
    write_page(tmp_path / "a.html", **EMPTY | {"title": "<i>T</i>", "summary": '"S" & <script>'})
    text = (tmp_path / "a.html").read_text()
    assert "<h1>&lt;i&gt;T&lt;/i&gt;</h1>" in text
    assert "&#34;S&#34; &amp; &lt;script&gt;" in text


def test_one_image_and_one_epoch_can_be_plotted(tmp_path):
    curves = CURVES[:1]
    save_png([*learning_curves(curves, 1), *bleu_analysis(per_image([""]), curves, 1)], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 500
