"""The plots of a run: learning curves, scores of the captions, and gradient flow.

The table `curves` has one row per epoch. `best` is the epoch whose weights were kept.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lib.report.figures import COLOURS, Panel

_LINES = {  # column of `curves` -> label, colour
    "train_loss": ("train", "orange"), "reward": ("train", "orange"),
    "val_loss": ("validation", "blue"), "val_cider_d": ("CIDEr-D", "blue"),
    "val_bleu_1": ("BLEU-1", "blue"), "val_bleu_2": ("BLEU-2", "green"),
    "val_bleu_3": ("BLEU-3", "purple"), "val_bleu_4": ("BLEU-4", "orange"),
}  # fmt: skip


def learning_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of `train_loss`, `val_loss` and `val_cider_d` by epoch."""
    return [
        _epoch_panel("Loss", "cross-entropy per word (nats)", curves, best, "train_loss", "val_loss"),
        _epoch_panel("CIDEr-D on validation", "CIDEr-D of greedy captions", curves, best, "val_cider_d"),
    ]


def self_critical_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of `reward` and `val_cider_d` by epoch, or none without self-critical training.

    Epoch 0 is the model before self-critical training.
    """
    if len(curves) == 1:
        return []
    cider_title = "CIDEr-D on validation, self-critical training"
    return [
        _epoch_panel("Reward of self-critical training", "CIDEr-D of sampled captions", curves, best, "reward"),
        _epoch_panel(cider_title, "CIDEr-D of greedy captions", curves, best, "val_cider_d"),
    ]


def bleu_analysis(per_image: pd.DataFrame, curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of `val_bleu_1` to `val_bleu_4` by epoch, and of `bleu_4`, `cider_d` and `length` per test image."""

    def by_length(axes: Axes) -> None:
        groups, blue = per_image.groupby("length")["bleu_4"], COLOURS["blue"]
        mean, count, low, high = groups.mean(), groups.size(), groups.quantile(0.25), groups.quantile(0.75)
        half = axes.fill_between(mean.index, low, high, color=blue, alpha=0.15, linewidth=0)
        (line,) = axes.plot(mean.index, mean, color=blue)
        axes.scatter(mean.index, mean, 120 * count / count.max() + 4, color=blue, zorder=3)
        axes.set(xlabel="words of the caption", ylabel="BLEU-4 of an image", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend([line, half], ["mean; larger dots: more images", "middle half of the images"])

    bleu = [f"val_bleu_{n}" for n in range(1, 5)]
    return [
        _epoch_panel("BLEU on validation", "BLEU of greedy captions", curves, best, *bleu, ylim=(0, 1)),
        Panel("BLEU-4 of each test image", partial(_histogram, "BLEU-4", per_image["bleu_4"], 0.05)),
        Panel("CIDEr-D of each test image", partial(_histogram, "CIDEr-D", per_image["cider_d"], 0.25)),
        Panel("BLEU-4 by length of the caption", by_length),
    ]


def compared_curves(curves: Mapping[str, pd.DataFrame]) -> list[Panel]:
    """Return plots of `val_loss`, `val_bleu_4` and `val_cider_d` by epoch, with all runs (up to three) in each plot."""
    # The marks have different sizes, so that all are visible if the curves are equal.
    rings: dict[str, Any] = {"color": COLOURS["orange"], "markersize": 8, "mfc": "none"}
    dots: dict[str, Any] = {"color": COLOURS["blue"]}
    squares: dict[str, Any] = {"color": COLOURS["green"], "marker": "s", "markersize": 12, "mfc": "none"}

    def compare(column: str, axes: Axes) -> None:
        for (run, curve), style in zip(curves.items(), (rings, dots, squares), strict=False):
            axes.plot(curve["epoch"], curve[column], label=run, **{"marker": "o", **style})
        _label_epochs(axes)

    titles = {"val_loss": "Loss (nats per word)", "val_bleu_4": "BLEU-4", "val_cider_d": "CIDEr-D"}
    return [Panel(f"{title} on validation", partial(compare, column)) for column, title in titles.items()]


def gradient_flow(norms: pd.DataFrame) -> list[Panel]:
    """Return a plot of `norms`, the table that `lib.gradients.gradient_flow.gradient_flow` returned."""

    def draw(axes: Axes) -> None:
        for cell, colour in (("rnn", "orange"), ("lstm", "blue")):
            for stage, line in (("untrained", "--"), ("trained", "-")):
                label = f"{cell.upper()}, {stage}"
                axes.plot(norms["steps_back"], norms[f"{cell}_{stage}"], line, color=COLOURS[colour], label=label)
        axes.set(xlabel="words back", ylabel="norm (1 for one word back)", yscale="log", ylim=(1e-12, 3))
        axes.legend()

    return [Panel("Gradient norm by distance from the last word", draw)]


def _epoch_panel(title: str, ylabel: str, curves: pd.DataFrame, best: int, *columns: str, **limits: Any) -> Panel:
    def draw(axes: Axes) -> None:
        for column in columns:
            label, colour = _LINES[column]
            axes.plot(curves["epoch"], curves[column], "o-", color=COLOURS[colour], label=label)
        axes.set(ylabel=ylabel, **limits)
        axes.axvline(best, color=COLOURS["muted"], linestyle=":", linewidth=1, label=f"kept: epoch {best}")
        _label_epochs(axes)

    return Panel(title, draw)


def _label_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _histogram(name: str, scores: pd.Series, width: float, axes: Axes) -> None:
    """Draw a histogram with bins of `width`, and mark the mean."""
    edges, mean = np.arange(0, max(scores.max(), 1) + width, width), scores.mean()
    axes.hist(scores, edges.tolist(), color=COLOURS["blue"], alpha=0.75, rwidth=0.9)
    axes.axvline(mean, color=COLOURS["orange"], linewidth=1.2, label=f"mean: {mean:.2f}")
    axes.set(xlabel=name, ylabel="images")
    axes.legend()
