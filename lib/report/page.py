"""One HTML page of a run that works offline: the template page.html, with its style and its script, filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.report.comparison import Comparison, columns
from lib.report.figures import Panel, as_svg
from lib.report.labels import label
from lib.report.plots import compared_curves


def write_page(
    path: Path,
    title: str,
    summary: str,
    scores: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    statistics: Mapping[str, float],
    curves: Sequence[Panel],
    bleu: Sequence[Panel],
    comparisons: Sequence[Comparison],
    gradients: Sequence[Panel],
) -> None:
    """Writes the page, which shows the gallery that `gallery.js` beside it holds.

    `intervals` has [low, high] for some of the `scores`; `statistics` say what the captions are like.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": label, "columns": columns, "compared_curves": compared_curves, "svg": as_svg}
    page = environment.get_template("page.html").render(
        title=title,
        summary=summary,
        scores=scores,
        intervals=intervals,
        statistics=statistics,
        curves=curves,
        bleu=bleu,
        comparisons=comparisons,
        gradients=gradients,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
