"""Loaders of the data sets that are downloaded by name."""

from pathlib import Path

from lib.datasets.coco import load_coco
from lib.datasets.dataset import Dataset
from lib.datasets.flickr8k import load_flickr8k

_LOADERS = {
    "coco2014": lambda raw: load_coco(raw, 2014),
    "coco2017": lambda raw: load_coco(raw, 2017),
    "flickr8k": load_flickr8k,
}


def load_named(name: str, raw: Path) -> Dataset:
    """Read a downloaded data set from its own files in `raw`. Raises UserError."""
    return _LOADERS[name](raw)
