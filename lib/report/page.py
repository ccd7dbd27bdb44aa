"""Write one HTML page for a run. It works offline: the style, the scripts and the plots are inside the page."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.report.comparison import shared_scores
from lib.report.figures import as_svg
from lib.report.gallery import label
from lib.report.plots import compared_curves


def write_page(path: Path, **content: Any) -> None:
    """Write the page. It shows the gallery in the file gallery.js, which must be in the same folder.

    `content` has the variables of page.html: the texts `title` and `summary`; the `scores` and `statistics` by name;
    `intervals`, which has [low, high] for some of the scores; the panels `curves`, `bleu` and `gradients`; and
    `comparisons`.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    functions = {"label": label, "svg": as_svg, "shared_scores": shared_scores, "compared_curves": compared_curves}
    path.write_text(environment.get_template("page.html").render(content, **functions), "utf-8")
