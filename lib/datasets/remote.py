"""Bring the data sets that are downloaded by name into data/raw."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lib.core.files import atomic_write, link_or_copy
from lib.core.workdir import fingerprint, locked
from lib.core.zips import MAX_IMAGE_BYTES, open_zip, read_member, write_stored_zip
from lib.datasets.loaders import load_named
from lib.datasets.registry import IMAGE_ARCHIVES
from lib.fetch.http import RemoteFile, fetch
from lib.fetch.remote_zip import fetch_members


def fetch_dataset(
    name: str, files: Sequence[RemoteFile], raw: Path, *, limit: int | None, store: Path, cache: Path | None
) -> None:
    """Put the `files` of the data set `name` into the folder `raw`, under their own names.

    With a `limit`, a zip of images holds only the first images of each split. If the whole zip is not in `store`, they
    come from the zip on the server, verified by their CRC-32 and not by the zip's MD5.

    `store` keeps the downloads, and `cache` is DVC's; both go by MD5. Raises UserError.
    """
    reuse_dvc_cache(files, store, cache)
    limited = [file for file in files if limit is not None and file.name in IMAGE_ARCHIVES]
    complete = [file for file in files if file not in limited]
    raw.mkdir(parents=True, exist_ok=True)
    for file, path in zip(complete, fetch(complete, store), strict=True):
        link_or_copy(path, raw / file.name)
        if file.name.endswith(".zip"):
            open_zip(raw / file.name).close()  # the user's MD5 may be that of a broken zip
    if limit is not None:
        images = load_named(name, raw).checked().first(limit).images
        for file in limited:
            members = images.loc[images["archive"] == file.name, "member"]
            link_or_copy(_limited_zip(file, list(members), store), raw / file.name)


def reuse_dvc_cache(files: Sequence[RemoteFile], store: Path, cache: Path | None) -> None:
    """Link the files that DVC's cache has into `store`. Verify them, because DVC does not do it again."""
    for file in files if cache else ():
        target, cached = store / file.md5, Path(cache or "", "files/md5", file.md5[:2], file.md5[2:])
        if cached.exists() and not target.exists():
            with cached.open("rb") as content, locked(store):
                if hashlib.file_digest(content, "md5").hexdigest() == file.md5:
                    link_or_copy(cached, target)


def _limited_zip(file: RemoteFile, members: list[str], store: Path) -> Path:
    """Return a zip of some members. Its bytes are the same, whether they come from `store` or from the server."""
    complete, target = store / file.md5, store / f"{file.md5}-{fingerprint(members)}"
    with locked(store):
        if not target.exists() and complete.exists():
            with open_zip(complete) as archive, atomic_write(target) as unfinished:
                present = [member for member in members if member in archive.NameToInfo]
                write_stored_zip(unfinished, ((name, read_member(archive, name, MAX_IMAGE_BYTES)) for name in present))
        elif not target.exists():
            fetch_members(file.url, members, target)
    return target
