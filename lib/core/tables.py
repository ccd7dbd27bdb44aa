"""Tables as parquet files whose bytes depend on their content alone."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.errors import readable_errors

SPLITS = ("train", "val", "test")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes parquet whose bytes depend on the table alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd")


def read_table(
    path: Path, columns: Sequence[str] | None = None, filters: Sequence[tuple[str, str, Any]] | None = None
) -> pd.DataFrame:
    """Reads parquet: some columns, or all; of the rows that meet all filters, such as ("image_id", "in", [1, 2]).

    Raises UserError where there is none, or a damaged one.
    """
    with readable_errors(path):
        return pd.read_parquet(path, columns=columns, filters=filters)


def read_images(path: Path, split: str) -> pd.DataFrame:
    """Read the rows of one split of an images table."""
    images = read_table(path)
    return images[images["split"] == split].reset_index(drop=True)


def read_tokens(path: Path, image_ids: Iterable[int]) -> dict[int, list[list[str]]]:
    """The captions' tokens of some images, in that order, out of a table with the columns image_id and tokens.

    None of an image that the table does not have. Equal words are one object: COCO has seven million of them. Raises
    UserError as `read_table` does.
    """
    references: dict[int, list[list[str]]] = {int(image_id): [] for image_id in image_ids}
    with readable_errors(path):
        table = pq.read_table(path, columns=["image_id", "tokens"], filters=[("image_id", "in", list(references))])
        captions = table["tokens"].combine_chunks()
        words = captions.flatten().dictionary_encode()
        tokens = np.array(words.dictionary.to_pylist(), dtype=object)[words.indices.to_numpy()].tolist()
        ends = np.cumsum(captions.value_lengths().to_numpy(zero_copy_only=False))
        for image_id, (first, last) in zip(table["image_id"].to_pylist(), pairwise([0, *ends.tolist()]), strict=True):
            references[image_id].append(tokens[first:last])
    return references
