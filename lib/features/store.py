"""Features on disk: float16 npy shards, memory-mapped, and an index of who is where."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.core.errors import UserError, readable_errors


def shard_path(folder: Path, number: int) -> Path:
    """The file of one shard: (images, P, C) float16."""
    return folder / f"features-{number:05d}.npy"


def shard_paths(folder: Path) -> list[Path]:
    """The files of all shards, in order."""
    return sorted(folder.glob("features-*.npy"))


class Features:
    """The features of some images, (I, P, C) float16, read from the disk when they are asked for.

    Stands in for a tensor of that shape: the operating system keeps in memory what fits, and the rest costs a read.
    """

    def __init__(self, folder: Path, index: pd.DataFrame):
        """Those of the rows of `index` (shard, row), at least one, in its order.

        Raises UserError where a shard is missing, damaged, or not of one kind with the index and the others.
        """
        self._shards = index["shard"].to_numpy()
        self._rows = index["row"].to_numpy()
        last = index.groupby("shard")["row"].max()
        self._stored = {shard: _open(shard_path(folder, shard), row) for shard, row in last.items()}
        shapes = {stored.shape[1:] for stored in self._stored.values()}
        if len(shapes) > 1:
            raise UserError(f"the shards in {folder} are of different CNNs, (P, C) = {shapes}: extract them anew")
        self.shape = (len(index), *shapes.pop())

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, images: Tensor | slice) -> Tensor:
        """The features of some images, given by their places among these: (n, P, C) float16."""
        chosen = images if isinstance(images, slice) else images.cpu().numpy()
        shards, rows = self._shards[chosen], self._rows[chosen]
        features = np.empty((len(rows), *self.shape[1:]), np.float16)
        for shard in np.unique(shards):
            here = shards == shard
            features[here] = self._stored[shard][rows[here]]
        return torch.from_numpy(features)

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them, in order, `size` images at a time."""
        for first in range(0, len(self), size):
            yield self[first : first + size]


def _open(path: Path, last: int) -> np.ndarray:
    """A shard, left on the disk: (images, P, C) float16, with a row `last`."""
    with readable_errors(path):
        stored = np.load(path, mmap_mode="r")
        if stored.dtype != np.float16 or stored.ndim != 3 or len(stored) <= last:
            raise ValueError(f"it holds {stored.dtype} {stored.shape}, which are no features of {last + 1} images")
    return stored
