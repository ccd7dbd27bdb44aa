"""Import your own images and captions (dataset.name=local).

`import_local` writes both to the raw folder: the images as one or more archives, and the captions of any supported
format as two tables. `load_local` reads them, and finds the image of each caption.
"""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lib.core.archives import is_tar, open_archive
from lib.core.errors import UserError, readable_errors
from lib.core.file_types import IMAGE_SUFFIXES
from lib.core.names import Match, is_hidden, match_names, nearest
from lib.core.tables import read_table, write_table
from lib.core.zips import MAX_IMAGE_BYTES, write_stored_zip
from lib.datasets.annotations import draw_splits
from lib.datasets.dataset import Dataset
from lib.datasets.formats import Annotations, Columns
from lib.datasets.sources import read_source

IMAGES, IMAGE_TABLE, CAPTION_TABLE = "images.zip", "annotations-images.parquet", "annotations-captions.parquet"
SUMMARY = "annotations.json"  # name of the source, format, notes

# Suffixes that no image file has. Any other file may be an image, because only its content decides.
_NOT_IMAGES = {
    ".bin", ".bz2", ".caption", ".csv", ".css", ".db", ".doc", ".docx", ".gz", ".h5", ".html", ".ini", ".ipynb",
    ".js", ".json", ".jsonl", ".log", ".md", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".parquet", ".pdf", ".pkl", ".pt",
    ".pth", ".py", ".safetensors", ".sh", ".tar", ".tgz", ".token", ".toml", ".tsv", ".txt", ".wav", ".xls", ".xlsx",
    ".xml", ".xmp", ".yaml", ".yml", ".zip",
}  # fmt: skip

_RULES = {  # how a name was found
    "name": "by the end of the path", "extension": "without an extension", "upload": "without the upload's prefix",
}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """The data set, and a table of its missing images: those with captions that no file in the archives fits."""

    dataset: Dataset  # includes missing images, under their name in the annotations; `features` lists them as skipped
    total: int  # images with captions
    missing: pd.DataFrame  # image_id, file_name, reason (missing or ambiguous), nearest name that exists
    notes: list[str]  # what was read, left out, and found under another name

    def check_missing(self, max_skipped: float) -> None:
        """Print how many images are missing, by reason.

        Raises UserError if their share is above `max_skipped`, or if a split has no other image.
        """
        lines = []
        for reason, rows in self.missing.groupby("reason", sort=False):
            name, nearest_name = rows[["file_name", "nearest"]].iloc[0]
            what = "are not in dataset.local.images" if reason == "missing" else "fit several images"
            example = f"{name!r:.120} (nearest: {nearest_name!r:.120})"
            lines.append(f"{len(rows)} of {self.total} file names {what}, such as {example}")
        if len(self.missing) > max_skipped * self.total:
            fix = f"Correct the names, or raise features.max_skipped={max_skipped}."
            raise UserError(f"{self.dataset.source}: {'; '.join(lines)}. {fix}")
        if not lines:
            return
        found = self.dataset.images[~self.dataset.images["image_id"].isin(self.missing["image_id"])]
        replace(self.dataset, images=found).checked()
        for line in lines:
            print(f"skipped by features: {line}")


def import_local(
    images: Path, captions: Path | Mapping[str, Path], raw: Path, columns: Columns | None = None
) -> Annotations:
    """Copy the user's images and captions into `raw`, and return the captions. Raises UserError."""
    sources = {"": captions} if isinstance(captions, Path) else captions
    paths = {"dataset.local.images": images}
    paths |= {f"dataset.local.annotations{'.' * bool(key)}{key}": path for key, path in sources.items()}
    for param, path in paths.items():
        if not path.exists():
            raise UserError(f"{param}={path} does not exist. Use a path relative to the project, or a full path.")
    annotations = read_source(captions, columns)  # before the images, which take longer
    raw.mkdir(parents=True, exist_ok=True)
    _import_images(images, raw)
    write_table(annotations.images, raw / IMAGE_TABLE)
    write_table(annotations.captions, raw / CAPTION_TABLE)
    name = ", ".join(path.name for path in sources.values())
    summary = {"source": name, "format": annotations.format, "notes": annotations.notes}
    (raw / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return annotations


def _import_images(images: Path, raw: Path) -> None:
    """Copy a zip, an uncompressed tar, or the tar shards of a folder.

    Pack a compressed tar, or a folder without shards, into an uncompressed zip.
    """
    if images.is_dir():
        files = [path for path in sorted(images.rglob("*")) if path.is_file()]
        has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in files)
        shards = [] if has_images else [path for path in files if path.suffix == ".tar"]
        for shard in shards:
            if not is_tar(shard):
                problem = f"{shard.relative_to(images)} is not a tar"
                raise UserError(f"dataset.local.images={images}: {problem}. Copy it again.")
            shutil.copyfile(shard, raw / shard.relative_to(images).as_posix().replace("/", "--"))
        if not shards:
            pack_images(images, raw / IMAGES)
    elif zipfile.is_zipfile(images):
        shutil.copyfile(images, raw / IMAGES)
    elif is_tar(images):
        shutil.copyfile(images, raw / "images.tar")
    elif tarfile.is_tarfile(images):
        with readable_errors(images), tarfile.open(images) as archive:
            write_stored_zip(raw / IMAGES, _tar_members(archive))
    else:
        fix = "Use a folder, a zip or a tar of images."
        raise UserError(f"dataset.local.images={images} is neither a folder nor a zip or tar. {fix}")


def _tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a compressed tar, which has no random access, in its order."""
    seen = set()
    for member in archive:
        if member.isreg() and member.size <= MAX_IMAGE_BYTES and member.name not in seen and _may_be_image(member.name):
            seen.add(member.name)
            yield member.name, archive.extractfile(member).read()  # type: ignore[union-attr]


def _may_be_image(name: str) -> bool:
    return not is_hidden(name.removeprefix("./")) and Path(name).suffix.lower() not in _NOT_IMAGES


def pack_images(folder: Path, archive: Path) -> None:
    """Pack the files below `folder` that may be images into one stored zip, sorted by name. Raises UserError."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in paths if _may_be_image(path.relative_to(folder).as_posix())]
    if not files:
        fix = "Use the folder that contains the images."
        raise UserError(f"dataset.local.images={folder} contains no image file. {fix}")
    # In a folder from a stranger, photo.jpg may link to a private file of the user, which `dvc push` would publish.
    # Skipping links silently would train on fewer images than the user expects, so the user decides.
    root = folder.resolve()
    if outside := [path for path in files if not path.resolve().is_relative_to(root)]:
        example = outside[0].relative_to(folder)
        problem = f"{len(outside)} links point to files outside this folder, such as {example}"
        fix = "Replace each link with its file, or remove it."
        raise UserError(f"dataset.local.images={folder}: {problem}. {fix}")
    try:
        write_stored_zip(archive, ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files))
    except UnicodeEncodeError as error:
        raise UserError(f"dataset.local.images={folder}: {error.object!r} is not UTF-8. Rename this file.") from error


def load_local(raw: Path, seed: int, val_share: float, test_share: float) -> Loaded:
    """Read what `import_local` wrote to `raw`, and find each image in the archives. Raises UserError.

    If the annotations have no split, it is drawn by a hash of the image id.
    """
    with readable_errors(raw / SUMMARY):
        summary = json.loads((raw / SUMMARY).read_text("utf-8"))
        source, notes = Path(summary["source"]), list(summary["notes"])
    images, captions = read_table(raw / IMAGE_TABLE), read_table(raw / CAPTION_TABLE)
    has_caption = images["image_id"].isin(captions["image_id"])
    drawn = pd.Series("train", images.index, dtype="str")
    drawn[has_caption] = draw_splits(images.loc[has_caption, "image_id"].tolist(), seed, val_share, test_share)
    if "split" not in images:
        images["split"] = drawn
    elif absent := sorted({"val", "test"} - set(images["split"])):  # for example, only TextCaps' train file was given
        moved = (images["split"] == "train") & drawn.isin(absent)
        images.loc[moved, "split"] = drawn[moved]
        notes.append(
            f"the annotations have no {' and no '.join(absent)} split, so {moved.sum()} train images were moved there"
        )
    members = _members(raw)
    names = list(members)
    matches = match_names(images["file_name"].tolist(), names)
    archive = next((archive for archive, _ in members.values()), IMAGES)
    pairs = zip(images["file_name"], matches, strict=True)
    found = [members[match.name] if match.name is not None else (archive, name) for name, match in pairs]
    images["archive"], images["member"] = (pd.array([pair[i] for pair in found], "str") for i in (0, 1))
    missing = images[["image_id", "file_name"]].assign(reason=[match.reason for match in matches])
    missing = missing[(missing["reason"] != "") & has_caption]
    # Find the nearest name only for the examples in the message, because the search is slow.
    is_example = ~missing["reason"].duplicated()
    pairs = zip(missing["file_name"], is_example, strict=True)
    missing = missing.assign(nearest=[nearest(name, names) if example else None for name, example in pairs])
    notes += _inexact(images["file_name"].tolist(), matches)
    notes.insert(0, f"read {source} as {summary['format']}: {len(images)} images, {len(captions)} captions")
    dataset = Dataset(images[["image_id", "archive", "member", "split"]], captions, source)
    return Loaded(dataset, int(has_caption.sum()), missing, notes)


def _members(raw: Path) -> dict[str, tuple[str, str]]:
    """Return (archive, member) by file name. With several archives, the file name starts with the archive's name."""
    archives = sorted(path for path in raw.iterdir() if path.suffix in (".zip", ".tar"))
    members: dict[str, tuple[str, str]] = {}
    for path in archives:
        is_only = len(archives) == 1 and path.name in (IMAGES, "images.tar")
        folder = "" if is_only else f"{path.name.replace('--', '/')}/"
        members |= {f"{folder}{name}": (path.name, name) for name in open_archive(path).namelist()}
    return members


def _inexact(names: list[str], matches: list[Match]) -> list[str]:
    """Return a line for each way in which names differ from those of the files."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for name, match in zip(names, matches, strict=True):
        if match.name is not None and match.rule:
            rules.setdefault(_RULES.get(match.rule, "under another folder"), []).append((name, match.name))
    return [
        f"{len(pairs)} images found {how}: {pairs[0][0]!r:.120} is {pairs[0][1]!r:.120}" for how, pairs in rules.items()
    ]
