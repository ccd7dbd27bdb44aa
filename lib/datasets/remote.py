"""Download a data set by name into data/raw. This module has the addresses and MD5s of the files.

COCO is from https://cocodataset.org/#download. Karpathy's split is from Salesforce's LAVIS, because Karpathy's own zip
is no longer online. Flickr8k is the copy of Jason Brownlee's tutorials.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lib.core.errors import UserError, readable_errors
from lib.core.files import atomic_write, link_or_copy
from lib.core.workdir import fingerprint, locked
from lib.core.zips import MAX_IMAGE_BYTES, open_zip, read_member, write_stored_zip
from lib.datasets.loaders import load_named
from lib.fetch.http import RemoteFile, fetch
from lib.fetch.remote_zip import fetch_members

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
    # The images to caption for COCO's evaluation server.
    "server": (_VAL2014, RemoteFile(f"{_COCO}/zips/test2014.zip", "04127eef689ceac55e3a572c2c92f264")),
}

# Archives of images. If dataset.limit is set, only some of their members are needed.
IMAGE_ARCHIVES = {"train2014.zip", "val2014.zip", "train2017.zip", "val2017.zip", "Flickr8k_Dataset.zip"}


def remote_files(name: str, mirror: str | None, checksums: Path | None) -> list[RemoteFile]:
    """Return the files of coco2014, coco2017, flickr8k, or `server` (the images for COCO's evaluation server).

    `mirror` is a base URL that replaces the official addresses. All files must be in this one folder. `checksums` is a
    file of lines `md5  name`, the output of md5sum. These MD5s replace the official ones. Raises UserError if the file
    `checksums` is malformed.
    """
    md5s, lines = {}, []
    if checksums:
        with readable_errors(checksums):
            lines = checksums.read_text("utf-8").splitlines()
    for number, line in enumerate(map(str.strip, lines), 1):
        if match := re.fullmatch(r"([0-9a-fA-F]{32})\s+\*?(\S.*)", line):  # md5sum may write a * before the name
            md5s[PurePosixPath(match[2]).name] = match[1].lower()
        elif line and not line.startswith("#"):
            form = "the line must be an MD5 (32 hex digits), a space and a file name. Correct this line."
            raise UserError(f"{checksums}, line {number}: {form}")
    files = [replace(file, md5=md5s.get(file.name, file.md5)) for file in _FILES[name]]
    return [replace(file, url=f"{mirror.rstrip('/')}/{file.name}") for file in files] if mirror else files


def fetch_dataset(
    name: str, files: Sequence[RemoteFile], raw: Path, *, limit: int | None, store: Path, cache: Path | None
) -> None:
    """Put the `files` of the data set `name` into the folder `raw`, under their own names.

    If `limit` is given, the zips of images in `raw` hold only the first `limit` images of each split. If the complete
    zip is not in `store`, only these members are downloaded from the zip on the server. Then they are verified by their
    CRC-32, not by the MD5 of the zip. `store` keeps the downloads; `cache` is DVC's cache. In both, files are named by
    their MD5. Raises UserError.
    """
    reuse_dvc_cache(files, store, cache)
    limited = [file for file in files if limit is not None and file.name in IMAGE_ARCHIVES]
    complete = [file for file in files if file not in limited]
    raw.mkdir(parents=True, exist_ok=True)
    for file, path in zip(complete, fetch(complete, store), strict=True):
        link_or_copy(path, raw / file.name)
        if file.name.endswith(".zip"):
            open_zip(raw / file.name).close()  # a check: the MD5 in the user's `checksums` may be of a damaged zip
    if limit is not None:
        images = load_named(name, raw).checked().first(limit).images
        for file in limited:
            members = images.loc[images["archive"] == file.name, "member"]
            link_or_copy(_limited_zip(file, list(members), store), raw / file.name)


def reuse_dvc_cache(files: Sequence[RemoteFile], store: Path, cache: Path | None) -> None:
    """Link the files that DVC's cache has into `store`. Verify their MD5s, because DVC does not verify them again."""
    for file in files if cache else ():
        target, cached = store / file.md5, Path(cache or "", "files/md5", file.md5[:2], file.md5[2:])
        if cached.exists() and not target.exists():
            with cached.open("rb") as content, locked(store):
                if hashlib.file_digest(content, "md5").hexdigest() == file.md5:
                    link_or_copy(cached, target)


def _limited_zip(file: RemoteFile, members: list[str], store: Path) -> Path:
    """Return the path of a zip with only `members`, from the complete zip in `store` or from the server.

    The bytes are the same in both cases.
    """
    complete, target = store / file.md5, store / f"{file.md5}-{fingerprint(members)}"
    with locked(store):
        if not target.exists() and complete.exists():
            with readable_errors(complete), open_zip(complete) as archive, atomic_write(target) as unfinished:
                present = [member for member in members if member in archive.NameToInfo]
                write_stored_zip(unfinished, ((name, read_member(archive, name, MAX_IMAGE_BYTES)) for name in present))
        elif not target.exists():
            fetch_members(file.url, members, target)
    return target
