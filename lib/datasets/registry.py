"""Where the files of the data sets that are fetched by name lie, and what their bytes are known by.

COCO's zips: https://cocodataset.org/#download. Karpathy's split: as lists from Salesforce's LAVIS, for the zip that he
published is gone. Flickr8k: as Jason Brownlee keeps it for his tutorials.
"""

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lib.core.errors import UserError
from lib.fetch.http import RemoteFile

_COCO = "http://images.cocodataset.org"
_LISTS = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"

_KARPATHY = (
    RemoteFile(f"{_LISTS}/coco_karpathy_train.json", "aa31ac474cf6250ebb81d18348a07ed8"),
    RemoteFile(f"{_LISTS}/coco_karpathy_val.json", "b273847456ef5580e33713b1f7de52a0"),
    RemoteFile(f"{_LISTS}/coco_karpathy_test.json", "3ff34b0ef2db02d01c37399f6a2a6cd1"),
)
_VAL2014 = RemoteFile(f"{_COCO}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3")
_FILES = {
    "coco2014": (
        *_KARPATHY,
        RemoteFile(f"{_COCO}/annotations/annotations_trainval2014.zip", "0a379cfc70b0e71301e0f377548639bd"),
        _VAL2014,
        RemoteFile(f"{_COCO}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88"),
    ),
    "coco2017": (
        *_KARPATHY,
        RemoteFile(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
        RemoteFile(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
        RemoteFile(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
    "flickr8k": (
        RemoteFile(f"{_FLICKR8K}/Flickr8k_text.zip", "bf6c1abcb8e4a833b7f922104de18627"),
        RemoteFile(f"{_FLICKR8K}/Flickr8k_Dataset.zip", "f18a1e2920de5bd84dae7cf08ec78978"),
    ),
    # What COCO's evaluation server asks to caption.
    "server": (_VAL2014, RemoteFile(f"{_COCO}/zips/test2014.zip", "04127eef689ceac55e3a572c2c92f264")),
}

# The zips of which a limited run needs some members only.
IMAGE_ARCHIVES = frozenset(
    ["train2014.zip", "val2014.zip", "train2017.zip", "val2017.zip", "Flickr8k_Dataset.zip"],
)


def remote_files(name: str, mirror: str | None, checksums: Path | None) -> list[RemoteFile]:
    """The files of the data set `name`: coco2014, coco2017 or flickr8k; or of `server`, COCO's, the images alone.

    `mirror` is a base URL with all files flat under their own names, in the place of the official addresses.
    `checksums` is a file of lines `md5  name`, as md5sum writes them, for a mirror whose files differ from the official
    ones; of a file that it does not name, the official md5 is asked for. Raises UserError where it is not such a file.
    """
    known = _read_checksums(checksums) if checksums else {}
    found = [replace(file, digest=known.get(file.name, file.digest)) for file in _FILES[name]]
    return [file.at(mirror) for file in found] if mirror else found


def _read_checksums(path: Path) -> dict[str, str]:
    """The md5 of each file name. A name may stand with its folder, and be preceded by md5sum's * for binary."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    digests = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"([0-9a-fA-F]{32})\s+\*?(\S.*)", line.strip())
        if not found:
            raise UserError(f"{path}, line {number}: should be an md5 (32 hex digits), blanks and a file's name")
        digests[PurePosixPath(found[2]).name] = found[1].lower()
    return digests
