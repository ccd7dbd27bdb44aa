"""One HTML page of a run that works offline: its pictures are inside it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from PIL import Image

from lib.report.comparison import Comparison, columns

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; border-radius: .4rem; }
figcaption { font-size: .85rem; color: #666; } figcaption b { display: block; font-size: 1rem; color: #222; }
</style>
<h1>$title</h1>
<p>$summary</p>
<h2>Scores on the test split</h2>
<table><tr>$names</tr><tr>$values</tr></table>
<h2>Learning curves</h2>
<img alt="learning curves" src="$curves">
$comparisons
<h2>Gradient flow</h2>
<p>A language model reads the captions of one picture after another, without seeing them. How strongly does the state
so many words back still feel the loss of the last word? What does not reach it cannot be learned.</p>
<img alt="gradient flow" src="$gradients">
$galleries
</html>
""")


@dataclass(frozen=True)
class Example:
    """A test image with what the model says of it and what people say."""

    picture: Image.Image
    caption: str
    references: Sequence[str]
    note: str


def write_page(
    path: Path,
    title: str,
    summary: str,
    scores: Mapping[str, float],
    curves: Path,
    comparisons: Sequence[Comparison],
    gradients: Path,
    galleries: Mapping[str, Sequence[Example]],
) -> None:
    """Writes the page. `curves` and `gradients` are PNGs; `galleries` are shown in their order under their names."""
    sections = [
        f'<h2>{html.escape(name)}</h2>\n<div class="gallery">\n{"".join(map(_figure, examples))}</div>'
        for name, examples in galleries.items()
        if examples
    ]
    page = _PAGE.substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        names="".join(f"<th>{html.escape(name)}</th>" for name in scores),
        values="".join(f"<td>{value:.3f}</td>" for value in scores.values()),
        curves=_data_uri(curves.read_bytes(), "png"),
        comparisons="\n".join(map(_comparison, comparisons)),
        gradients=_data_uri(gradients.read_bytes(), "png"),
        galleries="\n".join(sections),
    )
    path.write_text(page, "utf-8")


def _comparison(comparison: Comparison) -> str:
    names = columns(comparison.scores)
    rows = "".join(
        f"<tr><th>{html.escape(run)}</th>{''.join(f'<td>{scores[name]:.3f}</td>' for name in names)}</tr>\n"
        for run, scores in comparison.scores.items()
    )
    return (
        f"<h2>{html.escape(comparison.title)}</h2>\n<p>{html.escape(comparison.summary)}</p>\n"
        f"<table><tr><th></th>{''.join(f'<th>{html.escape(name)}</th>' for name in names)}</tr>\n{rows}</table>\n"
        f'<img alt="learning curves of both" src="{_data_uri(comparison.curves.read_bytes(), "png")}">'
    )


def _figure(example: Example) -> str:
    buffer = io.BytesIO()
    example.picture.save(buffer, "JPEG", quality=85)
    references = "<br>".join(html.escape(reference) for reference in example.references)
    return (
        f'<figure><img alt="" src="{_data_uri(buffer.getvalue(), "jpeg")}">'
        f"<figcaption><b>{html.escape(example.caption) or '(no words)'}</b>"
        f"{html.escape(example.note)}<details><summary>references</summary>{references}</details></figcaption></figure>\n"
    )


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
