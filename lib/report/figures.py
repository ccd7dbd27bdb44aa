"""Draw panels side by side into a PNG, or one by one as SVG for an HTML page, light and dark."""

import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

# The colours by name, for a page in light mode. base.css also has the colours for dark mode.
_BASE_CSS = (Path(__file__).parent / "shared/base.css").read_text("utf-8")
COLOURS: dict[str, str] = dict(re.findall(r"--(\w+): light-dark\((#\w{6}),", _BASE_CSS))

_STYLE: dict[Any, Any] = {
    "text.color": COLOURS["ink"],
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), COLOURS["muted"]),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), COLOURS["line"]),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.axisbelow", "axes.grid"), True),
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}

# Parts of matplotlib's SVG that an inline <svg> does not need: header, namespaces, style, fonts. The ids of groups are
# removed too, because they are the same in every figure.
_UNWANTED = r'(?s)\A.*?(?=<svg)| xmlns(:\w+)?="[^"]*"|<style.*?</style>|font-family: [^;]*; |(?<=<g) id="[^"]*"'

_PNG: dict[str, Any] = {"dpi": 100, "metadata": {"Software": None}}
_WIDTH, _HEIGHT = 5.2, 3.3  # size of a panel in inches


@dataclass(frozen=True)
class Panel:
    """A plot: its title, and a function that draws it."""

    title: str
    draw: Callable[[Axes], None]


def save_png(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Draw the panels, row by row, into one PNG. The same panels give the same bytes."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
            panel.draw(axes)
            axes.set_title(panel.title)
        figure.savefig(path, **_PNG)


def as_svg(panel: Panel, section: str) -> str:
    """Return the panel, without its title, as an <svg> element for a page with the CSS variables of `COLOURS`.

    `section` is the name of the page section that contains the panel. It makes the ids in the SVG unique.
    """
    text = io.StringIO()
    with rc_context({**_STYLE, "svg.fonttype": "none", "svg.hashsalt": f"{section}/{panel.title}"}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        panel.draw(figure.subplots())
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
    svg = re.sub(_UNWANTED, "", text.getvalue())
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def find_fonts(texts: Iterable[str]) -> tuple[list[str], str]:
    """Return the names of the fonts that draw `texts`, and the letters that no installed font has.

    If matplotlib's default font has all letters, the list of names is empty. Otherwise the list starts with the default
    font. Then the fonts follow that add most of the missing letters, so the image depends on the installed fonts.
    """
    letters = {character for text in texts for character in text if unicodedata.category(character)[0] in "LMN"}
    default = font_manager.findfont("DejaVu Sans")  # comes with matplotlib
    missing, fonts = letters - _letters_of(default), ["DejaVu Sans"]
    found = {path: missing & _letters_of(path) for path in sorted(font_manager.findSystemFonts())} if missing else {}
    while missing and (path := max(found, key=lambda path: len(found[path] & missing), default=None)):
        if not found[path] & missing:
            break
        missing = missing - found[path]
        font_manager.fontManager.addfont(path)
        fonts.append(FT2Font(path).family_name)
    return fonts if len(fonts) > 1 else [], "".join(sorted(missing))


def _letters_of(path: str) -> set[str]:
    """Return the characters of a font file, or an empty set if matplotlib cannot read the file."""
    try:
        return set(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return set()


def draw_contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: Path, columns: int = 4) -> str:
    """Draw images row by row into a PNG, each above its caption. Return the letters that no installed font has."""
    fonts, missing = find_fonts(captions)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.0 * rows), layout="constrained")
    for number, (image, caption) in enumerate(zip(images, captions, strict=True), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.axis("off")
        axes.imshow(image)
        wide = sum(unicodedata.east_asian_width(character) in "WF" for character in caption)
        lines = textwrap.wrap(caption, width=17 if 2 * wide > len(caption) else 34, max_lines=4, placeholder=" …")
        title = axes.set_title("\n".join(lines) or "(no words)", y=-0.04, va="top", fontsize=9, parse_math=False)
        if fonts:
            title.set_fontfamily(fonts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the caller prints one line instead of many warnings
        figure.savefig(path, **_PNG)
    return missing
