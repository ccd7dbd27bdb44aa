"""Read the data sets that are downloaded by name."""

from pathlib import Path

from lib.datasets.coco import load_coco
from lib.datasets.dataset import Dataset
from lib.datasets.flickr8k import load_flickr8k


def load_named(name: str, raw: Path) -> Dataset:
    """Read coco2014, coco2017 or flickr8k from its own files in `raw`. Raises UserError."""
    return load_flickr8k(raw) if name == "flickr8k" else load_coco(raw, int(name.removeprefix("coco")))
