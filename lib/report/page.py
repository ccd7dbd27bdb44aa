"""Write the HTML page of a run. It works offline, because it contains its styles, scripts and plots."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.report.comparison import shared_scores
from lib.report.figures import as_svg
from lib.report.gallery import label
from lib.report.plots import compared_curves


def write_page(path: Path, **content: Any) -> None:
    """Write the page to `path`. It needs gallery.js in the same folder.

    `content` has the variables of page.html: the texts `title` and `summary`; the dicts `scores` and `statistics`; the
    dict `intervals`, with [low, high] for some of the scores; the lists of panels `curves`, `bleu` and `gradients`; and
    the list `comparisons`.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    functions = {"label": label, "svg": as_svg, "shared_scores": shared_scores, "compared_curves": compared_curves}
    path.write_text(environment.get_template("page.html").render(content, **functions), "utf-8")
