"""Draw panels side by side into a PNG, or one by one as SVG for an HTML page, light and dark."""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # works without a screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# shared/base.css has a variable for each name: this value on a light page and another on a dark page. Colour-blind
# readers can tell blue from orange.
COLOURS = {
    "ink": "#1d2126",
    "muted": "#5a636d",
    "line": "#d5dae0",
    "blue": "#0b62c4",
    "orange": "#c2570c",
    "green": "#1b7f4b",
    "purple": "#7b3fc4",
}

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

_SVG_METADATA = ("Creator", "Date", "Format", "Type")
# An inline <svg> needs no namespaces, style or font of its own. The group ids of matplotlib repeat in every figure.
_UNWANTED = (r' xmlns(:\w+)?="[^"]*"', r"(?s)<style.*?</style>", r"font-family: [^;]*; ", r'(?<=<g) id="[^"]*"')

_WIDTH, _HEIGHT = 5.2, 3.3  # inches of a panel
_PER_ROW = 4  # images of a contact sheet


@dataclass(frozen=True)
class Panel:
    """A plot: its title and the function that draws it."""

    title: str
    draw: Callable[[Axes], None]


def save_png(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Draw the panels, row by row, into one PNG. The same panels give the same bytes."""
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        size = (_WIDTH * columns, _HEIGHT * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel.draw(axes)
            axes.set_title(panel.title)
        _save_png(figure, path)


def as_svg(panel: Panel, section: str) -> str:
    """Return the panel, without its title, as an <svg> element for a page with the CSS variables of `COLOURS`.

    `section` is the name of the panel's section in the page; it makes the ids in the SVG unique.
    """
    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.fonttype": "none", "svg.hashsalt": f"{section}/{panel.title}"}):
        figure, axes = plt.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        panel.draw(axes)
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(_SVG_METADATA))
        plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for unwanted in _UNWANTED:
        svg = re.sub(unwanted, "", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def draw_contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], path: Path) -> None:
    """Draw images in rows of four, each above its caption, into a PNG."""
    rows = -(-len(images) // _PER_ROW)
    size = (2.6 * _PER_ROW, 3.0 * rows)
    figure, grid = plt.subplots(rows, _PER_ROW, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image)
        lines = textwrap.wrap(caption, width=34, max_lines=4, placeholder=" …")
        axes.set_title("\n".join(lines) or "(no words)", y=-0.04, va="top", fontsize=9, parse_math=False)
    _save_png(figure, path)


def _save_png(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
