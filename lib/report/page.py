"""Write one HTML page for a run. It works offline: the style, the scripts and the plots are inside the page."""

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
    """Write the page. It shows the gallery in the file gallery.js, which must be in the same folder.

    `intervals` has [low, high] for some of the `scores`. `statistics` are the caption statistics.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
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
