"""Bringing in the data sets that go by a name of the field: verified, and no more of them than is asked for."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import atomic_write, link_or_copy
from lib.core.workdir import fingerprint, locked
from lib.core.zips import MAX_IMAGE_BYTES, open_zip, read_member, write_stored_zip
from lib.datasets import loaders as named, registry as catalogue
from lib.fetch.http import RemoteFile, fetch
from lib.fetch.remote_zip import fetch_members


def fetch_dataset(
    name: str, files: Sequence[RemoteFile], raw: Path, *, limit: int | None, store: Path, cache: Path | None
) -> None:
    """Puts the `files` of the data set `name` into the folder `raw`, under their own names.

    With a `limit`, a zip of images holds only those of the first so many images of each split. Where the whole zip is
    not at hand they are taken out of the one on the server, and then their CRC-32 stands in for the zip's md5.

    `store` is where downloads go on, and stay; `cache`, DVC's, is looked into first. Both go by md5, so that a change
    of this code, or of the mirror, fetches nothing twice. Raises UserError.
    """
    reuse_dvc_cache(files, store, cache)
    in_part = [file for file in files if limit is not None and file.name in catalogue.IMAGE_ARCHIVES]
    whole = [file for file in files if file not in in_part]
    raw.mkdir(parents=True, exist_ok=True)
    for file, path in zip(whole, fetch(whole, store), strict=True):
        if file.name.endswith(".zip"):
            _check_zip(file, path)
        link_or_copy(path, raw / file.name)
    if limit is not None:
        images = named.load_named(name, raw).checked().first(limit).images
        for file in in_part:
            members = images.loc[images["archive"] == file.name, "member"]
            link_or_copy(_members(file, list(members), store), raw / file.name)


def reuse_dvc_cache(files: Sequence[RemoteFile], store: Path, cache: Path | None) -> None:
    """Takes into the store what DVC's cache has of the files and is whole: DVC itself does not look again."""
    if cache is None:
        return
    for file in files:
        cached = cache / "files/md5" / file.digest[:2] / file.digest[2:]
        if (store / file.digest).exists() or not cached.exists():
            continue
        with cached.open("rb") as content:
            if hashlib.file_digest(content, "md5").hexdigest() != file.digest:
                continue
        with locked(store):
            if not (store / file.digest).exists():
                link_or_copy(cached, store / file.digest)


def _check_zip(file: RemoteFile, path: Path) -> None:
    try:
        open_zip(path).close()
    except UserError as error:
        raise UserError(
            f"{file.url} has the md5 that dataset.checksums names, {file.digest}, but is no zip, or not all of one: "
            f"mend it there, and its md5 in {file.name}'s line"
        ) from error


def _members(file: RemoteFile, members: list[str], store: Path) -> Path:
    """The zip of those members of a zip of images that there are; the same bytes, wherever they are taken from."""
    whole, part = store / file.digest, store / f"{file.digest}-{fingerprint(members)}"
    if part.exists():
        return part
    with locked(store):
        if part.exists():  # another process has made it meanwhile
            return part
        if whole.exists():
            with open_zip(whole) as archive, atomic_write(part) as path:
                write_stored_zip(path, _found(archive, members))
        else:
            fetch_members(file.url, members, part, store / f"{part.name}.members")
    return part


def _found(archive: zipfile.ZipFile, members: list[str]) -> Iterator[tuple[str, bytes]]:
    names = set(archive.namelist())
    for member in members:
        if member in names:
            try:
                yield member, read_member(archive, member, MAX_IMAGE_BYTES)
            except zipfile.BadZipFile as error:
                raise UserError(
                    f"{archive.filename} has the right md5, but in it {member} is broken: {error}"
                ) from error
