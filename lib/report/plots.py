"""What is plotted of a run: how it learned, how its captions score, and how far back its gradients reach."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lib.report.figures import COLOURS, Panel

_BLEU = {"BLEU-1": "blue", "BLEU-2": "green", "BLEU-3": "purple", "BLEU-4": "orange"}


def learning_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """Loss, and CIDEr-D of the validation split, by epoch; the epoch `best`, which was kept, is marked.

    `curves` has the columns epoch, train_loss, val_loss and val_cider_d.
    """

    def loss(axes: Axes) -> None:
        axes.plot(curves["epoch"], curves["train_loss"], "o-", color=COLOURS["orange"], label="train")
        axes.plot(curves["epoch"], curves["val_loss"], "o-", color=COLOURS["blue"], label="validation")
        axes.set_ylabel("cross-entropy per word (nats)")
        _epochs(axes, best)

    return [Panel("Loss", loss), Panel("CIDEr-D on validation", partial(_cider, curves, best))]


def self_critical_curves(curves: pd.DataFrame, best: int) -> list[Panel]:
    """What self-critical training brought: the reward of train's samples, and CIDEr-D of the validation split.

    `curves` has the columns epoch, reward and val_cider_d; epoch 0 is before it. No panels where it was not done.
    """
    if len(curves) == 1:
        return []

    def reward(axes: Axes) -> None:
        axes.plot(curves["epoch"], curves["reward"], "o-", color=COLOURS["orange"], label="train")
        axes.set_ylabel("CIDEr-D of sampled captions")
        _epochs(axes, best)

    return [
        Panel("Reward of self-critical training", reward),
        Panel("CIDEr-D on validation, in it", partial(_cider, curves, best)),
    ]


def bleu_analysis(each: pd.DataFrame, curves: pd.DataFrame, best: int) -> list[Panel]:
    """BLEU-1 to 4 of the validation split by epoch, and, of the test images, each one's scores.

    `each` has a row an image with the columns bleu_4, cider_d and length (words); `curves` has epoch and val_bleu_1
    to val_bleu_4.
    """

    def by_epoch(axes: Axes) -> None:
        for n, (label, colour) in enumerate(_BLEU.items(), 1):
            axes.plot(curves["epoch"], curves[f"val_bleu_{n}"], "o-", color=COLOURS[colour], label=label)
        axes.set(ylabel="BLEU of greedy captions", ylim=(0, 1))
        _epochs(axes, best)

    def by_length(axes: Axes) -> None:
        groups = each.groupby("length")["bleu_4"]
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
        Panel("BLEU on validation", by_epoch),
        Panel("BLEU-4 of each test image", partial(_histogram, "BLEU-4", each["bleu_4"], 0.05)),
        Panel("CIDEr-D of each test image", partial(_histogram, "CIDEr-D", each["cider_d"], 0.25)),
        Panel("BLEU-4 by the caption’s length", by_length),
    ]


def compared_curves(curves: Mapping[str, pd.DataFrame]) -> list[Panel]:
    """Loss, BLEU-4 and CIDEr-D of the validation split by epoch, for two runs on the same axes.

    Each run's `curves` have the columns epoch, val_loss, val_bleu_4 and val_cider_d.
    """
    # The rings of the first are seen around the dots of the second where two curves are one, as those of two
    # implementations of one cell.
    styles: tuple[dict[str, Any], ...] = (
        {"color": COLOURS["orange"], "markersize": 8, "mfc": "none"},
        {"color": COLOURS["blue"]},
    )

    def compare(column: str, axes: Axes) -> None:
        for (run, curve), style in zip(curves.items(), styles, strict=True):
            axes.plot(curve["epoch"], curve[column], "o-", label=run, **style)
        _epochs(axes)

    titles = {"val_loss": "Loss (nats per word)", "val_bleu_4": "BLEU-4", "val_cider_d": "CIDEr-D"}
    return [Panel(f"{title} on validation", partial(compare, column)) for column, title in titles.items()]


def gradient_flow(fading: pd.DataFrame) -> list[Panel]:
    """How the gradient fades with the steps back, before and after training, for an RNN and an LSTM.

    `fading` is what `lib.gradients.gradient_flow.gradient_flow` gives.
    """

    def draw(axes: Axes) -> None:
        for cell, colour in (("rnn", "orange"), ("lstm", "blue")):
            for when, line in (("untrained", "--"), ("trained", "-")):
                label = f"{cell.upper()}, {when}"
                axes.plot(fading["steps_back"], fading[f"{cell}_{when}"], line, color=COLOURS[colour], label=label)
        axes.set(xlabel="words back", ylabel="norm (1 for one word back)", yscale="log", ylim=(1e-12, 3))
        axes.legend()

    return [Panel("Gradient that reaches the state so many words before the last", draw)]


def _cider(curves: pd.DataFrame, best: int, axes: Axes) -> None:
    axes.plot(curves["epoch"], curves["val_cider_d"], "o-", color=COLOURS["blue"], label="CIDEr-D")
    axes.set_ylabel("CIDEr-D of greedy captions")
    _epochs(axes, best)


def _epochs(axes: Axes, best: int | None = None) -> None:
    """Completes a plot by epoch, in which `best` was kept."""
    if best is not None:
        axes.axvline(best, color=COLOURS["muted"], linestyle=":", linewidth=1, label=f"kept: epoch {best}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _histogram(name: str, scores: pd.Series, width: float, axes: Axes) -> None:
    """Draws how many of the scores fall into each interval of that width."""
    edges = np.arange(0, max(scores.max(), 1) + width, width)
    axes.hist(scores, edges.tolist(), color=COLOURS["blue"], alpha=0.75, rwidth=0.9)
    mean = scores.mean()
    axes.axvline(mean, color=COLOURS["orange"], linewidth=1.2, label=f"mean: {mean:.2f}")
    axes.set(xlabel=name, ylabel="images")
    axes.legend()
