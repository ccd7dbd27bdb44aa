"""Features on disk: float16 npy shards that can be memory-mapped, and an index of who is where."""

from pathlib import Path

import numpy as np
import pandas as pd

_INDEX = "index.parquet"


def shard_path(folder: Path, number: int) -> Path:
    """The file of one shard: (images, P, C) float16."""
    return folder / f"features-{number:05d}.npy"


def index_path(folder: Path) -> Path:
    """The file of the index: image_id, shard, row. The images that it names are those that exist from here on."""
    return folder / _INDEX


def load_features(folder: Path, index: pd.DataFrame) -> np.ndarray:
    """The features of the rows of `index` (shard, row), in its order: (I, P, C) float16."""
    shards = index["shard"].to_numpy()
    rows = index["row"].to_numpy()
    parts = {shard: np.load(shard_path(folder, shard), mmap_mode="r") for shard in np.unique(shards)}
    shape = next(iter(parts.values())).shape[1:]
    features = np.empty((len(index), *shape), np.float16)
    for shard, stored in parts.items():
        here = shards == shard
        features[here] = stored[rows[here]]
    return features
