"""Running a CNN over a data set: images in, float16 feature shards and a table of skipped images out.

The unit is one shard, a pure function of a fixed slice of the images table. Decoding runs ahead of the CNN
in threads (the decoder releases Python's lock); their number changes speed alone.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.compute import device
from lib.vision.backbones import Backbone
from lib.vision.features import shard_path
from lib.vision.images import Archives
from lib.vision.pixels import Decoded, ImageRow, decoded_pixels, image_rows

SHARD_SIZE = 2048  # images


class _Shard(NamedTuple):
    features: np.ndarray  # (I, P, C) float16
    image_ids: list[int]
    skipped: list[tuple[int, str]]


def extract(
    images: pd.DataFrame, raw: Path, backbone: Backbone, out: Path, *, kind: str, batch_size: int, workers: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes the feature shards of `images` (image_id, archive, member), in its order, to `out`.

    `kind` is pooled or grid, as in `Backbone.features`.

    Returns where each feature is (image_id, shard, row), and which images have none (image_id, reason).
    """
    out.mkdir(parents=True, exist_ok=True)
    backbone.network.to(device())
    rows: list[tuple[int, int, int]] = []
    skipped: list[tuple[int, str]] = []
    archives = Archives(raw)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(desc="extracting features", total=len(images), unit="image", disable=None) as progress,
    ):
        for number, first in enumerate(range(0, len(images), SHARD_SIZE)):
            part = images.iloc[first : first + SHARD_SIZE]
            shard = _extract_shard(part, archives, backbone, kind, batch_size, pool, progress)
            np.save(shard_path(out, number), shard.features)
            rows += [(image_id, number, row) for row, image_id in enumerate(shard.image_ids)]
            skipped += shard.skipped
    archives.close()
    return (
        pd.DataFrame(rows, columns=["image_id", "shard", "row"], dtype="int64"),
        pd.DataFrame(skipped, columns=["image_id", "reason"]).astype({"image_id": "int64", "reason": "str"}),
    )


def _extract_shard(
    images: pd.DataFrame,
    archives: Archives,
    backbone: Backbone,
    kind: str,
    batch_size: int,
    pool: ThreadPoolExecutor,
    progress: tqdm,
) -> _Shard:
    features, image_ids, skipped = [], [], []
    rows = image_rows(images)
    for batch in _ahead(pool, partial(decoded_pixels, archives, backbone.preprocess), rows, batch_size):
        good = [(image_id, found) for image_id, found in batch if isinstance(found, np.ndarray)]
        skipped += [(image_id, found) for image_id, found in batch if isinstance(found, str)]
        if good:
            stacked = torch.from_numpy(np.stack([found for _, found in good])).to(device())
            features.append(backbone.features(stacked, kind).to("cpu", torch.float16).numpy())
            image_ids += [image_id for image_id, _ in good]
        progress.update(len(batch))
    empty = np.empty((0, 0, 0), np.float16)
    return _Shard(np.concatenate(features) if features else empty, image_ids, skipped)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[ImageRow], Decoded], rows: list[ImageRow], batch_size: int
) -> Iterator[list[Decoded]]:
    """The results of `work` on `rows`, a batch at a time, the next batch being worked on meanwhile."""
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    waiting = [pool.submit(work, row) for row in batches[0]] if batches else []
    for following in [*batches[1:], []]:
        ready, waiting = waiting, [pool.submit(work, row) for row in following]
        yield [future.result() for future in ready]
