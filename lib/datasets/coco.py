"""`coco2014` and `coco2017`: COCO (Lin et al. 2014, Chen et al. 2015) with Karpathy's split.

Both years hold the same photographs and captions, under other file names and with another division into train and val.
Karpathy's split (Karpathy & Fei-Fei 2015) goes by image id, so it fits both: 113,287 images for train (30,504 of them
from val2014, called "restval"), 5,000 for val and 5,000 for test.
"""

from pathlib import Path

import pandas as pd

from lib.core.tables import SPLITS
from lib.core.zips import read_zipped_file
from lib.datasets.annotations import read_coco, read_karpathy_lists
from lib.datasets.dataset import Dataset
from lib.datasets.json_records import parse_json


def load_coco(raw: Path, year: int) -> Dataset:
    """Read COCO's annotations and Karpathy's lists in `raw`, without images that no list has. Raises UserError.

    Does not need the image zips: a limited download asks here which images it needs.
    """
    archive = raw / f"annotations_trainval{year}.zip"
    parts = []
    for part in (f"train{year}", f"val{year}"):
        name = f"annotations/captions_{part}.json"
        content = parse_json(read_zipped_file(archive, name), archive / name)
        images, captions = read_coco(content, archive / name)
        parts.append((images.assign(archive=f"{part}.zip", member=f"{part}/" + images["file_name"]), captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    splits = read_karpathy_lists({split: raw / f"coco_karpathy_{split}.json" for split in SPLITS})
    images["split"] = [splits.get(image_id) for image_id in images["image_id"]]
    images = images.dropna(subset="split")
    captions = captions[captions["image_id"].isin(images["image_id"])]
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, archive)
