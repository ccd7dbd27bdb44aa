"""The two tables that every data set is read into, and their checks.

    images    image_id (int), archive, member, split         one row per image
    captions  image_id (int), caption                        one row per caption

`archive` is the name of a zip in the raw folder, `member` the image's name in that zip; `split` is train, val or test.
"""

import reprlib
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError
from lib.core.tables import SPLITS


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
