"""The two tables that every data set is read into, and their checks.

    images    image_id (int), archive, member, split         one row an image
    captions  image_id (int), caption                        one row a caption

`archive` is a zip's name within the raw folder, `member` the image's name within that zip;
`split` is train, val or test.
"""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import UserError
from lib.reading import intact

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """A data set as its annotations describe it; see the module for the columns."""

    images: pd.DataFrame
    captions: pd.DataFrame
    source: Path  # the file or folder of the annotations, for what is to be said of them

    def checked(self) -> "Dataset":
        """Itself, sorted by image id, once nothing in it would mislead a later stage.

        Images without a caption are left out, and captions without an image. Raises UserError for image ids that occur
        twice, for files that are two images', and for a split without a captioned image.
        """
        if (twice := self.images["image_id"].duplicated()).any():
            example = self.images["image_id"][twice].iloc[0]
            raise UserError(
                f"{self.source} names {twice.sum()} image ids twice, such as {example}: each may occur once"
            )
        if (twice := self.images.duplicated(["archive", "member"])).any():  # one might be in train, the other in test
            example = reprlib.repr(self.images["member"][twice].iloc[0])
            raise UserError(
                f"{self.source} has {twice.sum()} images whose file is another image's too, such as {example}: "
                "name each file once, with its folder, and give it all its captions"
            )
        captions = self.captions[self.captions["image_id"].isin(self.images["image_id"])]
        images = self.images[self.images["image_id"].isin(captions["image_id"])]
        for split in SPLITS:
            if not (images["split"] == split).any():
                raise UserError(
                    f"{self.source}: no image with a caption is in the {split} split, and each split needs one: "
                    "check the annotations and the split's shares"
                )
        return replace(
            self,
            images=images.sort_values("image_id", ignore_index=True),
            captions=captions.sort_values("image_id", kind="stable", ignore_index=True),
        )

    def first(self, limit: int) -> "Dataset":
        """The first `limit` images of each split, by id, and their captions."""
        images = self.images.groupby("split").head(limit)
        captions = self.captions[self.captions["image_id"].isin(images["image_id"])]
        return replace(self, images=images, captions=captions)


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
    with intact(path):
        return pd.read_parquet(path, columns=columns, filters=filters)


def read_tokens(path: Path, image_ids: Iterable[int]) -> dict[int, list[list[str]]]:
    """The captions' tokens of some images, in that order, out of a table with the columns image_id and tokens.

    None of an image that the table does not have. Equal words are one object: COCO has seven million of them. Raises
    UserError as `read_table` does.
    """
    references: dict[int, list[list[str]]] = {int(image_id): [] for image_id in image_ids}
    with intact(path):
        table = pq.read_table(path, columns=["image_id", "tokens"], filters=[("image_id", "in", list(references))])
        captions = table["tokens"].combine_chunks()
        words = captions.flatten().dictionary_encode()
        tokens = np.array(words.dictionary.to_pylist(), dtype=object)[words.indices.to_numpy()].tolist()
        ends = np.cumsum(captions.value_lengths().to_numpy(zero_copy_only=False))
        for image_id, (first, last) in zip(table["image_id"].to_pylist(), pairwise([0, *ends.tolist()]), strict=True):
            references[image_id].append(tokens[first:last])
    return references
