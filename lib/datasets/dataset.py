"""The two tables of every data set, and checks of their rows.

images    image_id, archive (a zip or tar in the raw folder), member (name in the archive), split (train, val or test)
captions  image_id, caption

Image ids are int64, or strings if not all of the user's ids are integers.
"""

import reprlib
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError
from lib.core.tables import SPLITS


@dataclass(frozen=True)
class Dataset:
    images: pd.DataFrame
    captions: pd.DataFrame
    source: Path  # the file or folder of the annotations, for error messages

    def checked(self) -> "Dataset":
        """Return the data set sorted by image id. Drop images without a caption, and captions without an image.

        Raises UserError if an image id or an image file occurs twice, or if a split has no image with a caption.
        """
        # Image files are checked too, because a file with two ids could be in both train and test.
        for column, keys, noun in (("image_id", ["image_id"], "id"), ("member", ["archive", "member"], "file")):
            doubled = self.images.duplicated(keys)
            if doubled.any():
                first = self.images.loc[doubled, column].tolist()[0]
                splits = sorted(set(self.images.loc[self.images[column] == first, "split"]))
                problem = f"{doubled.sum()} images have the {noun} of another image, such as {reprlib.repr(first)}"
                problem += f" (in {' and '.join(splits)})" if len(splits) > 1 else ""
                fix = "List each image once, with its folder and all its captions."
                raise UserError(f"{self.source}: {problem}. {fix}")
        captions = self.captions[self.captions["image_id"].isin(self.images["image_id"])]
        images = self.images[self.images["image_id"].isin(captions["image_id"])]
        for split in SPLITS:
            if not (images["split"] == split).any():
                fix = "Check the annotations and the share of each split."
                raise UserError(f"{self.source}: the {split} split has no image with a caption. {fix}")
        images = images.sort_values("image_id", ignore_index=True)
        captions = captions.sort_values("image_id", kind="stable", ignore_index=True)
        return replace(self, images=images, captions=captions)

    def first(self, limit: int) -> "Dataset":
        """Return the first `limit` images of each split, in the order of the table, with their captions."""
        images = self.images.groupby("split").head(limit)
        captions = self.captions[self.captions["image_id"].isin(images["image_id"])]
        return replace(self, images=images, captions=captions)
