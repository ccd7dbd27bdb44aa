"""What train and the stages after it read: the images that have features, split by split, with their captions."""

import pandas as pd

from lib.core.tables import read_table, read_tokens
from lib.features.store import Features, index_path
from stages.common.entrypoint import CAPTIONS, FEATURES


def images_with_features(split: str) -> pd.DataFrame:
    """The images of a split that were not skipped: image_id, archive, member, split, shard, row; by id."""
    images, index = read_table(CAPTIONS / "images.parquet"), read_table(index_path(FEATURES))
    return images[images["split"] == split].merge(index, on="image_id", validate="1:1")


def features_of(images: pd.DataFrame) -> Features:
    """Their features, (I, P, C), left on the disk."""
    return Features(FEATURES, images)


def references_of(images: pd.DataFrame) -> dict[int, list[list[str]]]:
    """Their captions' tokens, by image id, in the order of `images`."""
    return read_tokens(CAPTIONS / "captions.parquet", images["image_id"])
