"""Pictures of a run, drawn with matplotlib: learning curves, and test images with their captions."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # draws into files, wherever there is no screen

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

_COLUMNS = 4
_WIDTH = 34  # characters of a caption's line


def draw_curves(curves: pd.DataFrame, best: int, path: Path) -> None:
    """Loss, and scores of the validation split, by epoch; the epoch `best`, which was kept, is marked.

    `curves` has the columns epoch, train_loss, val_loss, val_bleu_4 and val_cider_d.
    """
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    epochs = curves["epoch"]
    losses.plot(epochs, curves["train_loss"], "o-", markersize=3, label="train")
    losses.plot(epochs, curves["val_loss"], "o-", markersize=3, label="validation")
    losses.set(xlabel="epoch", ylabel="cross-entropy per word (nats)", title="Loss")
    bleu = scores.plot(epochs, curves["val_bleu_4"], "o-", markersize=3, color="tab:green", label="BLEU-4")
    cider_axis = scores.twinx()
    cider = cider_axis.plot(epochs, curves["val_cider_d"], "s-", markersize=3, color="tab:red", label="CIDEr-D")
    scores.set(xlabel="epoch", ylabel="BLEU-4", title="Greedy captions of the validation split")
    cider_axis.set_ylabel("CIDEr-D")
    mark = scores.axvline(best, color="grey", linestyle=":", label=f"kept: epoch {best}")
    losses.axvline(best, color="grey", linestyle=":")
    losses.legend()
    scores.legend(handles=[*bleu, *cider, mark], loc="lower right")
    for axes in (losses, scores):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_comparison(curves: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Loss, BLEU-4 and CIDEr-D of the validation split by epoch, for two runs on the same axes.

    Each run's `curves` have the columns epoch, val_loss, val_bleu_4 and val_cider_d.
    """
    panels = {
        "val_loss": "Loss: cross-entropy per word (nats)",
        "val_bleu_4": "BLEU-4 of greedy captions",
        "val_cider_d": "CIDEr-D of greedy captions",
    }
    # Orange and blue are told apart by the colour-blind too. The rings of the first are seen around the dots of the
    # second where two curves are one, as those of two implementations of one cell.
    styles = ({"color": "tab:orange", "markersize": 8, "mfc": "none"}, {"color": "tab:blue", "markersize": 4})
    figure, grid = plt.subplots(1, len(panels), figsize=(12, 3.6), layout="constrained")
    for axes, (column, title) in zip(grid, panels.items(), strict=True):
        for (run, curve), style in zip(curves.items(), styles, strict=True):
            axes.plot(curve["epoch"], curve[column], "o-", label=run, **style)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    grid[0].legend()
    figure.suptitle("Validation split")
    _save(figure, path)


def draw_gradients(fading: pd.DataFrame, path: Path) -> None:
    """How the gradient fades with the steps back, before and after training, for an RNN and an LSTM.

    `fading` is what `lib.training.gradient_flow.gradient_flow` gives.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for cell, colour in (("rnn", "tab:orange"), ("lstm", "tab:blue")):
        for when, line in (("untrained", "--"), ("trained", "-")):
            column = fading[f"{cell}_{when}"]
            axes.plot(fading["steps_back"], column, line, color=colour, label=f"{cell.upper()}, {when}")
    axes.set(
        xlabel="words back", ylabel="norm of the gradient\n(1 for one word back)", yscale="log", ylim=(1e-12, 3),
        title="What reaches the state so many words before the last",
    )  # fmt: skip
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def draw_gallery(pictures: Sequence[Image.Image], captions: Sequence[str], path: Path) -> None:
    """Pictures in rows of four, each over its caption."""
    rows = -(-len(pictures) // _COLUMNS)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=(2.6 * _COLUMNS, 3.0 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        axes.imshow(picture)
        axes.set_title(textwrap.fill(caption, _WIDTH) or "(no words)", y=-0.04, va="top", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
