"""`coco2014` and `coco2017`: COCO (Lin et al. 2014, Chen et al. 2015) with Karpathy's split.

Both years hold the same photographs and captions, under other file names and with another division into train and val.
Karpathy's split (Karpathy & Fei-Fei 2015) goes by image id, so it fits both: 113,287 images for train (30,504 of them
from val2014, called "restval"), 5,000 for val and 5,000 for test.
"""

import json
from pathlib import Path

import pandas as pd

from lib.core.errors import readable_errors
from lib.core.tables import SPLITS
from lib.core.zips import read_zipped_file
from lib.datasets.annotations import read_coco, read_karpathy_lists
from lib.datasets.dataset import Dataset


def load_coco(raw: Path, year: int) -> Dataset:
    """Read COCO's annotations and Karpathy's lists in `raw`, without images that no list has. Raises UserError.

    Does not need the image zips: a limited download asks here which images it needs.
    """
    archive = raw / f"annotations_trainval{year}.zip"
    parts = []
    for part in (f"train{year}", f"val{year}"):
        source = archive / f"annotations/captions_{part}.json"
        with readable_errors(source):
            content = json.loads(read_zipped_file(archive, f"annotations/{source.name}"))
        images, captions = read_coco(content, source)
        parts.append((images.assign(archive=f"{part}.zip", member=f"{part}/" + images["file_name"]), captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    splits = read_karpathy_lists({split: raw / f"coco_karpathy_{split}.json" for split in SPLITS})
    images = images.assign(split=images["image_id"].map(splits)).dropna(subset="split")
    captions = captions[captions["image_id"].isin(images["image_id"])]
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, archive)
