"""The comparison of runs: the table, the plot, and its section of the page."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

from lib.report.comparison import Comparison, read_comparisons, table, write_comparison
from lib.report.figures import COLOURS
from lib.report.page import write_page
from tests.lib.pages import EMPTY

SCORES = {
    "RNN": {"bleu_4": 0.25, "truth": 0.5}, "LSTM": {"bleu_4": 0.3125, "truth": 1.0},
    "Transformer": {"bleu_4": 0.5, "truth": 0.75},
}  # fmt: skip
CURVES = {
    run: pd.DataFrame({"epoch": [1, 2], "val_loss": [3.0, loss], "val_bleu_4": [0.1, 0.2], "val_cider_d": [0.5, 0.7]})
    for run, loss in (("RNN", 2.0), ("LSTM", 1.0), ("Transformer", 1.5))
}
COMPARISON = Comparison("RNN against LSTM", "On <scenes>, 2 epochs each.", SCORES, CURVES)


@pytest.fixture
def folder(tmp_path):
    write_comparison(tmp_path / "cell", COMPARISON)
    return tmp_path


def test_the_table_has_one_row_per_run_and_the_scores_that_all_have():
    assert table({"RNN": {"bleu_4": 0.25, "truth": 0.5}, "LSTM": {"bleu_4": 0.3125}}) == (
        "|  | bleu_4 |\n| --- | ---: |\n| RNN | 0.250 |\n| LSTM | 0.312 |"
    )


def test_a_comparison_is_written_as_markdown_json_csv_and_png(folder):
    files = sorted(path.name for path in (folder / "cell").iterdir())
    assert files == ["README.md", "curves.csv", "curves.png", "scores.json"]
    text = (folder / "cell/README.md").read_text()
    assert table(SCORES) in text
    assert "(curves.png)" in text
    assert json.loads((folder / "cell/scores.json").read_text())["scores"] == SCORES
    curves = pd.read_csv(folder / "cell/curves.csv")
    assert curves["run"].tolist() == ["RNN", "RNN", "LSTM", "LSTM", "Transformer", "Transformer"]
    assert curves["val_loss"].tolist() == [3.0, 2.0, 3.0, 1.0, 3.0, 1.5]


def test_the_plot_shows_all_curves_and_is_small_enough_for_git(folder):
    path = folder / "cell/curves.png"
    assert path.stat().st_size < 100_000
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for colour in ("orange", "blue", "green"):
        assert (np.abs(pixels - ImageColor.getrgb(COLOURS[colour])).max(-1) < 3).sum() > 300, colour


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    write_comparison(tmp_path / "again", COMPARISON)
    for path in (folder / "cell").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_written_comparisons_are_read_back_sorted_by_folder(folder, tmp_path):
    (folder / "README.md").write_text("about this folder")
    write_comparison(folder / "attention", Comparison("A against B", "", SCORES, CURVES))
    first, second = read_comparisons(folder)
    assert (first.title, second.title) == ("A against B", "RNN against LSTM")
    assert second.scores == SCORES
    assert list(second.curves) == ["RNN", "LSTM", "Transformer"]
    assert second.curves["LSTM"]["val_loss"].tolist() == [3.0, 1.0]
    assert read_comparisons(tmp_path / "none") == []


def test_the_page_shows_each_comparison(folder, tmp_path):
    for name, comparisons in (("with", read_comparisons(folder)), ("without", [])):
        write_page(tmp_path / name, **EMPTY | {"comparisons": comparisons})
    page, without = ((tmp_path / name).read_text() for name in ("with", "without"))
    assert "<h2>RNN against LSTM</h2>" in page
    assert "<p>On &lt;scenes&gt;, 2 epochs each.</p>" in page
    assert re.search(r"<th>LSTM</th>\s*<td>0\.312</td>\s*<td>1\.000</td>", page)
    assert page.count("<svg") == 3
    assert "<svg" not in without
    assert "against" not in without
