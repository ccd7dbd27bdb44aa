"""The plots of a run: learning curves, scores of the captions, and gradient flow."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lib.report.figures import COLOURS, Panel

_CIDER = {"val_cider_d": ("CIDEr-D", "blue")}
_BLEU = {f"val_bleu_{n}": (f"BLEU-{n}", colour) for n, colour in enumerate(("blue", "green", "purple", "orange"), 1)}


def learning_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of the loss and of CIDEr-D on the val split by epoch. `best` is the epoch that was kept.

    `curves` has the columns epoch, train_loss, val_loss and val_cider_d.
    """
    losses = {"train_loss": ("train", "orange"), "val_loss": ("validation", "blue")}
    return [
        _epoch_panel("Loss", "cross-entropy per word (nats)", curves, losses, best),
        _epoch_panel("CIDEr-D on validation", "CIDEr-D of greedy captions", curves, _CIDER, best),
    ]


def self_critical_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of the reward and of CIDEr-D on the val split by epoch of self-critical training.

    `curves` has the columns epoch, reward and val_cider_d. Epoch 0 is the model before this training. Return [] if
    there is no other epoch.
    """
    if len(curves) == 1:
        return []
    reward = {"reward": ("train", "orange")}
    cider_title = "CIDEr-D on validation, self-critical training"
    return [
        _epoch_panel("Reward of self-critical training", "CIDEr-D of sampled captions", curves, reward, best),
        _epoch_panel(cider_title, "CIDEr-D of greedy captions", curves, _CIDER, best),
    ]


def bleu_analysis(per_image: pd.DataFrame, curves: pd.DataFrame, best: int) -> list[Panel]:
    """Return plots of BLEU-1 to BLEU-4 on the val split by epoch, and of the scores of each test image.

    `per_image` has the columns bleu_4, cider_d and length (words); `curves` has epoch and val_bleu_1 to val_bleu_4.
    """

    def by_length(axes: Axes) -> None:
        groups = per_image.groupby("length")["bleu_4"]
        mean, count = groups.mean(), groups.size()
        half = axes.fill_between(
            mean.index, groups.quantile(0.25), groups.quantile(0.75), color=COLOURS["blue"], alpha=0.15, linewidth=0
        )
        (line,) = axes.plot(mean.index, mean, color=COLOURS["blue"])
        axes.scatter(mean.index, mean, 120 * count / count.max() + 4, color=COLOURS["blue"], zorder=3)
        axes.set(xlabel="words of the caption", ylabel="BLEU-4 of an image", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend([line, half], ["mean; a larger dot is more images", "middle half"])

    return [
        _epoch_panel("BLEU on validation", "BLEU of greedy captions", curves, _BLEU, best, ylim=(0, 1)),
        Panel("BLEU-4 of each test image", partial(_histogram, "BLEU-4", per_image["bleu_4"], 0.05)),
        Panel("CIDEr-D of each test image", partial(_histogram, "CIDEr-D", per_image["cider_d"], 0.25)),
        Panel("BLEU-4 by length of the caption", by_length),
    ]


def compared_curves(curves: Mapping[str, pd.DataFrame]) -> list[Panel]:
    """Return plots of loss, BLEU-4 and CIDEr-D on the val split by epoch, for two runs on the same axes.

    The `curves` of each run have the columns epoch, val_loss, val_bleu_4 and val_cider_d.
    """
    # Rings around dots keep both runs visible when their curves are equal.
    rings: dict[str, Any] = {"color": COLOURS["orange"], "markersize": 8, "mfc": "none"}
    dots: dict[str, Any] = {"color": COLOURS["blue"]}

    def compare(column: str, axes: Axes) -> None:
        for (run, curve), style in zip(curves.items(), (rings, dots), strict=True):
            axes.plot(curve["epoch"], curve[column], "o-", label=run, **style)
        _label_epochs(axes)

    titles = {"val_loss": "Loss (nats per word)", "val_bleu_4": "BLEU-4", "val_cider_d": "CIDEr-D"}
    return [Panel(f"{title} on validation", partial(compare, column)) for column, title in titles.items()]


def gradient_flow(norms: pd.DataFrame) -> list[Panel]:
    """Return a plot of the gradient norm by steps back, before and after training, for an RNN and an LSTM.

    `norms` is the table of `lib.gradients.gradient_flow.gradient_flow`.
    """

    def draw(axes: Axes) -> None:
        for cell, colour in (("rnn", "orange"), ("lstm", "blue")):
            for stage, line in (("untrained", "--"), ("trained", "-")):
                label = f"{cell.upper()}, {stage}"
                axes.plot(norms["steps_back"], norms[f"{cell}_{stage}"], line, color=COLOURS[colour], label=label)
        axes.set(xlabel="words back", ylabel="norm (1 for one word back)", yscale="log", ylim=(1e-12, 3))
        axes.legend()

    return [Panel("Gradient norm by distance from the last word", draw)]


def _epoch_panel(
    title: str, ylabel: str, curves: pd.DataFrame, lines: Mapping[str, tuple[str, str]], best: int, **limits: Any
) -> Panel:
    """Return a plot of columns of `curves` by epoch that marks the epoch `best`. `lines`: column -> label, colour."""

    def draw(axes: Axes) -> None:
        for column, (label, colour) in lines.items():
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
    """Draw a histogram with bins of that width, and mark the mean."""
    edges = np.arange(0, max(scores.max(), 1) + width, width)
    axes.hist(scores, edges.tolist(), color=COLOURS["blue"], alpha=0.75, rwidth=0.9)
    mean = scores.mean()
    axes.axvline(mean, color=COLOURS["orange"], linewidth=1.2, label=f"mean: {mean:.2f}")
    axes.set(xlabel=name, ylabel="images")
    axes.legend()
