"""`flickr8k` (Hodosh et al. 2013): photographs with five captions each; 6,000 in train, 1,000 in val, 1,000 in test."""

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError, readable_errors
from lib.core.zips import find_members, open_zip, read_zipped_file
from lib.datasets.dataset import Dataset

IMAGES, TEXTS = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


def load_flickr8k(raw: Path) -> Dataset:
    """Read the two zips of Flickr8k in `raw`, without images that no list has. Raises UserError.

    The image id is the number at the start of the file name. If the image zip is not there, members get their usual
    names: a limited download asks here which images it needs.
    """
    archive = raw / TEXTS
    ids: dict[str, int] = {}
    splits: dict[str, str] = {}
    for split, member in _LISTS.items():
        for place, line in _lines(archive, member):
            name = line.strip()
            match = re.match(r"([0-9]{1,18})_", name.rpartition("/")[2])
            if not match or splits.setdefault(name, split) != split:
                problem = "should start with a number and an underscore, and be in one split only"
                raise UserError(f"{place}: {reprlib.repr(name)} {problem}")
            ids[name] = int(match[1])
    members = [f"Flicker8k_Dataset/{name}" for name in ids]
    if (raw / IMAGES).exists():
        with open_zip(raw / IMAGES) as photographs:
            members = find_members(members, photographs.namelist())
    images = pd.DataFrame({"image_id": ids.values(), "archive": IMAGES, "member": members, "split": splits.values()})
    captions = []
    for place, line in _lines(archive, "Flickr8k.token.txt"):
        # such as "1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress ."
        if not (match := re.fullmatch(r"([^\t]*)#[^\t#]*\t(.*)", line)):
            raise UserError(f"{place}: should be a file name, #, a number, a tab and a caption")
        if match[1] in ids:
            captions.append((ids[match[1]], match[2]))
    return Dataset(images, pd.DataFrame(captions, columns=["image_id", "caption"]), archive)


def _lines(archive: Path, member: str) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for the lines of a text file that are not blank; the place is for error messages."""
    with readable_errors(archive / member):
        text = read_zipped_file(archive, member).decode("utf-8-sig")
    # splitlines() would also split at characters that a caption may contain, such as U+2028.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield f"{archive / member}, line {number}", line
