"""`flickr8k` (Hodosh et al. 2013): photographs with five captions each; 6,000 in train, 1,000 in val, 1,000 in test."""

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError
from lib.core.zips import find_members, open_zip, read_zipped_file
from lib.datasets.dataset import Dataset

IMAGES, TEXTS = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
_CAPTIONS = "Flickr8k.token.txt"
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
            if not match:
                raise UserError(f"{place}: {reprlib.repr(name)} should start with a number and an underscore")
            if splits.setdefault(name, split) != split:
                raise UserError(f"{place}: {reprlib.repr(name)} is already in the {splits[name]} split")
            ids[name] = int(match[1])
    members = [f"Flicker8k_Dataset/{name}" for name in ids]
    if (raw / IMAGES).exists():
        with open_zip(raw / IMAGES) as photographs:
            members = find_members(members, photographs.namelist())
    images = pd.DataFrame(
        {"image_id": list(ids.values()), "archive": IMAGES, "member": members, "split": list(splits.values())}
    )
    captions = [(ids[name], caption) for name, caption in _read_captions(archive) if name in ids]
    return Dataset(images, pd.DataFrame(captions, columns=["image_id", "caption"]), archive)


def _read_captions(archive: Path) -> Iterator[tuple[str, str]]:
    """Yield (file name, caption) from lines such as "1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress ."."""
    for place, line in _lines(archive, _CAPTIONS):
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.rpartition("#")
        if not (tab and hash_sign):
            raise UserError(f"{place}: should be a file name, #, a number, a tab and a caption")
        yield name, caption


def _lines(archive: Path, member: str) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for the lines of a text file that are not blank; the place is for error messages."""
    try:
        text = read_zipped_file(archive, member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{archive / member} is not UTF-8: {error}") from error
    # splitlines() would also split at characters that a caption may contain, such as U+2028.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield f"{archive / member}, line {number}", line
