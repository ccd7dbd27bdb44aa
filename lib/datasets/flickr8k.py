"""`flickr8k` (Hodosh et al. 2013): photographs with five captions each, 6,000 in train, 1,000 in val, 1,000 in test."""

import re
import reprlib
from pathlib import Path, PurePosixPath

import pandas as pd

from lib.core.errors import UserError
from lib.core.zips import find_members, open_zip, read_annotations
from lib.datasets.dataset import Dataset

IMAGES, TEXTS = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
_CAPTIONS = "Flickr8k.token.txt"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


def load_flickr8k(raw: Path) -> Dataset:
    """Reads the data set's own two zips in `raw`; photographs in none of the three lists are left out.

    The image id is Flickr's own number of the photograph, with which its file name starts. While the zip of images is
    not there, its members are named as it is known to name them: a limited download asks here which of them it wants.
    Raises UserError.
    """
    archive = raw / TEXTS
    splits = _splits(archive)
    ids = {name: _number(name, archive) for name in splits}
    members = [f"Flicker8k_Dataset/{name}" for name in splits]
    if (raw / IMAGES).exists():
        with open_zip(raw / IMAGES) as photographs:
            members = find_members(members, photographs.namelist())
    captions = [(ids[name], caption) for name, caption in _captions(archive) if name in ids]
    images = pd.DataFrame(
        {"image_id": list(ids.values()), "archive": IMAGES, "member": members, "split": list(splits.values())}
    )
    return Dataset(images, pd.DataFrame(captions, columns=["image_id", "caption"]), archive)


def _splits(archive: Path) -> dict[str, str]:
    """The split of each file name that a list has."""
    splits: dict[str, str] = {}
    for split, member in _LISTS.items():
        for _, line in _lines(archive, member):
            name = line.strip()
            if splits.setdefault(name, split) != split:
                raise UserError(
                    f"{archive / member} has {reprlib.repr(name)}, which is in the {splits[name]} split already"
                )
    return splits


def _captions(archive: Path) -> list[tuple[str, str]]:
    """(file name, caption), from lines such as "1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress ."."""
    captions = []
    for number, line in _lines(archive, _CAPTIONS):
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.rpartition("#")
        if not (tab and hash_sign):
            raise UserError(
                f"{archive / _CAPTIONS}, line {number}: should be a file name, #, a number, a tab, a caption"
            )
        captions.append((name, caption))
    return captions


def _lines(archive: Path, member: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers."""
    try:
        text = read_annotations(archive, member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{archive / member} is not UTF-8: {error}") from error
    # Not splitlines(): to that, some of the characters that a caption may hold end a line.
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]


def _number(name: str, archive: Path) -> int:
    if found := re.match(r"([0-9]{1,18})_", PurePosixPath(name).name):
        return int(found[1])
    raise UserError(
        f"{archive} lists {reprlib.repr(name)}, which does not start with a photograph's number and an underscore"
    )
