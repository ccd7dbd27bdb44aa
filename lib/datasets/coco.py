"""`coco2014` and `coco2017`: COCO's photographs and captions (Lin et al. 2014, Chen et al. 2015), in Karpathy's split.

The two years hold the same photographs and captions under other names, and differ in which are called train and val.
Karpathy's split (Karpathy & Fei-Fei 2015), which papers report on, goes by image id and so is the same for both:
113,287 images to train on, of which 30,504 from val2014 ("restval"), 5,000 for val and 5,000 for test.
"""

from pathlib import Path

import pandas as pd

from lib.core.tables import SPLITS
from lib.core.zips import read_annotations
from lib.datasets import annotations
from lib.datasets.dataset import Dataset


def load_coco(raw: Path, year: int) -> Dataset:
    """Reads COCO's annotations and Karpathy's lists in `raw`, under their own names; images in no list are left out.

    The zips of images need not be there: a limited download asks here which of their members it wants.
    Raises UserError.
    """
    archive = raw / f"annotations_trainval{year}.zip"
    parts = []
    for part in (f"train{year}", f"val{year}"):
        name = f"annotations/captions_{part}.json"
        content = annotations.parse_json(read_annotations(archive, name), archive / name)
        images, captions = annotations.read_coco(content, archive / name)
        images = images.assign(archive=f"{part}.zip", member=f"{part}/" + images["file_name"])
        parts.append((images, captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    lists = annotations.read_karpathy_lists({split: raw / f"coco_karpathy_{split}.json" for split in SPLITS})
    images["split"] = [lists.get(image_id) for image_id in images["image_id"]]
    images = images.dropna(subset="split")
    captions = captions[captions["image_id"].isin(images["image_id"])]
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, archive)
