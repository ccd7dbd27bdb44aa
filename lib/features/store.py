"""Features on disk: float16 npy shards, memory-mapped, with an index of shards and rows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.core.errors import UserError, readable_errors


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard: (images, P, C) float16."""
    return folder / f"features-{number:05d}.npy"


def shard_paths(folder: Path) -> list[Path]:
    """Return the files of all shards, in order."""
    return sorted(folder.glob("features-*.npy"))


class Features:
    """The features of some images, (I, P, C) float16, read from disk on access. It can replace a tensor."""

    def __init__(self, folder: Path, index: pd.DataFrame):
        """Open the shards of `index` (shard, row). Raises UserError if they do not fit together."""
        self._shard_of, self._row_of = index["shard"].to_numpy(), index["row"].to_numpy()
        last_rows = index.groupby("shard")["row"].max()
        self._shards = {number: _open(shard_path(folder, number), row) for number, row in last_rows.items()}
        shapes = {shard.shape[1:] for shard in self._shards.values()}
        if len(shapes) > 1:
            found = f"(P, C) = {sorted(shapes)}"
            raise UserError(f"{folder}: shards of different CNNs, {found}. Delete the folder and run dvc repro.")
        self.shape = (len(index), *shapes.pop())

    def __len__(self) -> int:
        return len(self._shard_of)

    def __getitem__(self, images: Tensor | slice) -> Tensor:
        """Return the features of the images at these positions, (n, P, C) float16."""
        positions = images if isinstance(images, slice) else images.cpu().numpy()
        numbers, rows = self._shard_of[positions], self._row_of[positions]
        features = np.empty((len(rows), *self.shape[1:]), np.float16)
        for number in np.unique(numbers):
            of_shard = numbers == number
            features[of_shard] = self._shards[number][rows[of_shard]]
        return torch.from_numpy(features)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all features in order, `size` images at a time."""
        for first in range(0, len(self), size):
            yield self[first : first + size]


def _open(path: Path, last_row: int) -> np.ndarray:
    with readable_errors(path):
        shard = np.load(path, mmap_mode="r")
        if shard.dtype != np.float16 or shard.ndim != 3 or len(shard) <= last_row:
            raise ValueError(f"it holds {shard.dtype} {shard.shape}, not float16 (n, P, C) with n > {last_row}")
    return shard
