"""How a figure is made: panels, drawn side by side into a PNG, or each on its own into an HTML page, light and dark."""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # draws into files, wherever there is no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# By name: page.css has a variable of each name, with this value on a light page and another on a dark one. Blue and
# orange are told apart by the colour-blind too.
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
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}

_SVG_METADATA = ("Creator", "Date", "Format", "Type")
# What an SVG file needs and a page has of its own: namespaces, a style, a font; and matplotlib's names of groups, which
# are the same in every figure.
_UNWANTED = (r' xmlns(:\w+)?="[^"]*"', r"(?s)<style.*?</style>", r"font-family: [^;]*; ", r'(?<=<g) id="[^"]*"')

_WIDTH, _HEIGHT = 5.2, 3.3  # inches, of a panel
_PICTURES = 4  # in a row of a contact sheet
_CHARACTERS = 34  # of a caption's line
_LINES = 4  # of a caption


@dataclass(frozen=True)
class Panel:
    """One plot: its title, and what draws it."""

    title: str
    draw: Callable[[Axes], None]


def save_png(panels: Sequence[Panel], path: Path, columns: int = 2) -> None:
    """Draws the panels, row by row, into one PNG; the same panels give the same bytes."""
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        size = (_WIDTH * columns, _HEIGHT * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel.draw(axes)
            axes.set_title(panel.title)
        _save_png(figure, path)


def as_svg(panel: Panel, section: str) -> str:
    """The panel, without its title, as an <svg> element of an HTML page that has a variable for each of `COLOURS`.

    `section` is where it stands in the page: the ids within it are then nowhere else.
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


def draw_contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str], path: Path) -> None:
    """Pictures in rows of four, each over its caption, as a PNG."""
    rows = -(-len(pictures) // _PICTURES)
    size = (2.6 * _PICTURES, 3.0 * rows)
    figure, grid = plt.subplots(rows, _PICTURES, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        axes.imshow(picture)
        lines = textwrap.wrap(caption, _CHARACTERS, max_lines=_LINES, placeholder=" …")
        # A dollar sign is one: it begins no formula.
        axes.set_title("\n".join(lines) or "(no words)", y=-0.04, va="top", fontsize=9, parse_math=False)
    _save_png(figure, path)


def _save_png(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
