"""Write the learning curves of a run while it trains: to CSV files and, if asked for, to TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.errors import UserError, one_line
from lib.core.files import atomic_write

Row = Mapping[str, float]  # column -> value; the first column is the epoch or the step


class Recorder:
    """Writes curves.csv, steps.csv and summary.json to a folder. Only the main process has one.

    Each call gets all rows so far and replaces the file. So a reader never sees half a row, and the files of a resumed
    run are complete.
    """

    def __init__(self, folder: Path, tensorboard: Path | None = None):
        """`tensorboard` is the folder of this run's events. Raises UserError if TensorBoard is not installed."""
        self._folder = folder
        self._events: Any = _event_writer(tensorboard) if tensorboard else None
        self._sent = {"epoch": 0, "step": 0}  # number of rows that TensorBoard has

    def write_epochs(self, curve: Sequence[Row], best: Row) -> None:
        """Write a row of metrics per epoch, and the metrics of the best epoch."""
        self._write("curves.csv", curve, list(curve[0]))
        shown = ("val_loss", "val_bleu_4", "val_cider_d")
        summary = {"best_epoch": best["epoch"], **{name: best[name] for name in shown if name in best}}
        with atomic_write(self._folder / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(summary, indent=2) + "\n")

    def write_steps(self, steps: Sequence[Row], metric: str) -> None:
        """Write a row per interval of steps: its last step, and the mean of the batches' `metric`."""
        self._write("steps.csv", steps, ["step", metric])

    def _write(self, name: str, rows: Sequence[Row], columns: list[str]) -> None:
        with atomic_write(self._folder / name) as unfinished:
            pd.DataFrame(rows, columns=columns).to_csv(unfinished, index=False, float_format="%.6g")
        if self._events:
            self._send(rows, *columns)

    def _send(self, rows: Sequence[Row], axis: str, *metrics: str) -> None:
        for row in rows[self._sent[axis] :]:
            for metric in metrics:
                if not isnan(row[metric]):
                    self._events.add_scalar(f"{axis}/{metric}", row[metric], int(row[axis]))
        self._sent[axis] = len(rows)
        self._events.flush()


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        fix = "Install the package tensorboard, or unset CAPTION_TENSORBOARD."
        raise UserError(f"CAPTION_TENSORBOARD: cannot write to {folder}: {one_line(error)}. {fix}") from error
    # A run that resumes sends all rows again, so TensorBoard drops those that it got before the interruption.
    return SummaryWriter(str(folder), purge_step=0)
