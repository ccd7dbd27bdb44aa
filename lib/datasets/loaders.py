"""Reading the data sets that go by a name of the field."""

from pathlib import Path

from lib.datasets import coco, flickr8k
from lib.datasets.dataset import Dataset


def load_named(name: str, raw: Path) -> Dataset:
    """Reads coco2014, coco2017 or flickr8k from its own files in `raw`. Raises UserError."""
    match name:
        case "coco2014":
            return coco.load_coco(raw, 2014)
        case "coco2017":
            return coco.load_coco(raw, 2017)
        case "flickr8k":
            return flickr8k.load_flickr8k(raw)
    raise ValueError(name)
