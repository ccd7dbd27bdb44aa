"""Load the data sets that are downloaded by name, from their original files in a folder.

Images that are in no split are dropped. The image zips may be missing, because a limited download uses these loaders to
find the images that it needs.
"""

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError, readable_errors
from lib.core.names import match_names
from lib.core.tables import SPLITS
from lib.core.zips import open_zip, read_zipped_file
from lib.datasets.annotations import read_karpathy_lists
from lib.datasets.dataset import Dataset
from lib.datasets.formats.coco import read_coco


def load_named(name: str, raw: Path) -> Dataset:
    """Read the data set coco2014, coco2017 or flickr8k. Raises UserError."""
    return load_flickr8k(raw) if name == "flickr8k" else load_coco(raw, int(name.removeprefix("coco")))


def load_coco(raw: Path, year: int) -> Dataset:
    """Read COCO (Lin et al. 2014, Chen et al. 2015) with Karpathy's split (Karpathy & Fei-Fei 2015). Raises UserError.

    Both years have the same photographs and captions, but different file names. The split is by image id, so it fits
    both years: 113,287 images for train (30,504 of them from val2014, called "restval"), 5,000 for val, 5,000 for test.
    """
    archive = raw / f"annotations_trainval{year}.zip"
    parts = []
    for part in (f"train{year}", f"val{year}"):
        source = archive / f"annotations/captions_{part}.json"
        with readable_errors(source):
            content = json.loads(read_zipped_file(archive, f"annotations/{source.name}"))
        annotations = read_coco(content, str(source))
        images = annotations.images.assign(member=f"{part}/" + annotations.images["file_name"])
        parts.append((images.assign(archive=f"{part}.zip"), annotations.captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    splits = read_karpathy_lists({split: raw / f"coco_karpathy_{split}.json" for split in SPLITS})
    images = images.assign(split=images["image_id"].map(splits)).dropna(subset="split")
    captions = captions[captions["image_id"].isin(images["image_id"])]
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, archive)


def load_flickr8k(raw: Path) -> Dataset:
    """Read Flickr8k (Hodosh et al. 2013): 6,000 photographs in train, 1,000 in val, 1,000 in test. Raises UserError.

    The image id is the number at the start of the file name.
    """
    archive, photographs = raw / "Flickr8k_text.zip", raw / "Flickr8k_Dataset.zip"
    listed: dict[str, tuple[int, str]] = {}  # file name -> (image id, split)
    for split, part in (("train", "train"), ("val", "dev"), ("test", "test")):
        for place, line in _lines(archive, f"Flickr_8k.{part}Images.txt"):
            name = line.strip()
            match = re.match(r"([0-9]{1,18})_", name.rpartition("/")[2])
            if not match:
                problem = f"{reprlib.repr(name)} does not start with a number and an underscore"
                raise UserError(f"{place}: {problem}. Correct this line.")
            other = listed.setdefault(name, (int(match[1]), split))[1]
            if other != split:
                problem = f"{reprlib.repr(name)} is also in the {other} split"
                raise UserError(f"{place}: {problem}. List each image in one split only.")
    members = [f"Flicker8k_Dataset/{name}" for name in listed]
    if photographs.exists():
        with open_zip(photographs) as zipped:
            matches = match_names(list(listed), zipped.namelist())
        members = [match.name or member for match, member in zip(matches, members, strict=True)]
    images = pd.DataFrame(listed.values(), columns=["image_id", "split"])
    images = images.assign(archive=photographs.name, member=members)[["image_id", "archive", "member", "split"]]
    captions = []
    for place, line in _lines(archive, "Flickr8k.token.txt"):
        # A line is, for example, "1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress ."
        if not (match := re.fullmatch(r"([^\t]*)#[^\t#]*\t(.*)", line)):
            form = "the form must be FILE#NUMBER, a tab, and the caption"
            raise UserError(f"{place}: {reprlib.repr(line)}: {form}. Correct this line.")
        if match[1] in listed:
            captions.append((listed[match[1]][0], match[2]))
    return Dataset(images, pd.DataFrame(captions, columns=["image_id", "caption"]), archive)


def _lines(archive: Path, member: str) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for each line of a text file that is not blank. `place` is for error messages."""
    with readable_errors(archive / member):
        text = read_zipped_file(archive, member).decode("utf-8-sig")
    # Not splitlines(), because it also splits at characters that a caption may contain, such as U+2028.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield f"{archive / member}, line {number}", line
