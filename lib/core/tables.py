"""Parquet tables whose bytes depend on their content alone."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.core.errors import readable_errors

SPLITS = ("train", "val", "test")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a parquet file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), path, compression="zstd")


def read_table(
    path: Path, columns: Sequence[str] | None = None, filters: Sequence[tuple[str, str, Any]] | None = None
) -> pd.DataFrame:
    """Read all or some columns of the rows that meet all filters, such as ("split", "==", "val"). Raises UserError."""
    with readable_errors(path):
        return pd.read_parquet(path, columns=columns, filters=filters)


def read_images(path: Path, split: str) -> pd.DataFrame:
    """Read the rows of one split of an images table. Raises UserError."""
    return read_table(path, filters=[("split", "==", split)])


def read_tokens(path: Path, image_ids: Iterable[Any]) -> dict[Any, list[list[str]]]:
    """Return the tokenised captions by image id, in the given order; an empty list for an unknown image.

    Equal words share one str object to save memory: COCO has seven million words. Raises UserError.
    """
    ids = image_ids.tolist() if isinstance(image_ids, pd.Series) else image_ids
    references: dict[Any, list[list[str]]] = {image_id: [] for image_id in ids}
    with readable_errors(path):
        table = pq.read_table(path, columns=["image_id", "tokens"], filters=[("image_id", "in", list(references))])
        captions = table["tokens"].combine_chunks()
        words = captions.flatten().dictionary_encode()
        tokens = iter(np.array(words.dictionary.to_pylist(), dtype=object)[words.indices.to_numpy()].tolist())
        for image_id, length in zip(table["image_id"].to_pylist(), captions.value_lengths().to_pylist(), strict=True):
            references[image_id].append(list(islice(tokens, length)))
    return references
