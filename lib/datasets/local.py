"""`local`: the user's own images (a folder or a zip) and captions (COCO captions JSON or Karpathy JSON)."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd

from lib.core.errors import UserError
from lib.core.zips import IMAGE_SUFFIXES, find_members, open_zip, write_stored_zip
from lib.datasets import annotations
from lib.datasets.dataset import Dataset

IMAGES, ANNOTATIONS = "images.zip", "annotations.json"


def import_local(images: Path, captions: Path, raw: Path) -> None:
    """Copies the user's files into `raw`; a folder of images is packed into one stored zip. Raises UserError."""
    for path, param in ((images, "dataset.local.images"), (captions, "dataset.local.annotations")):
        if not path.exists():
            raise UserError(f"{param} is {path}, which does not exist")
    _tables(captions)  # for its errors, which here name the user's own file
    raw.mkdir(parents=True, exist_ok=True)
    if images.is_dir():
        pack_images(images, raw / IMAGES)
    elif zipfile.is_zipfile(images):
        shutil.copyfile(images, raw / IMAGES)
    else:
        raise UserError(f"dataset.local.images is {images}, which is neither a folder nor a zip")
    shutil.copyfile(captions, raw / ANNOTATIONS)


def pack_images(folder: Path, archive: Path) -> None:
    """Packs the image files below `folder` into one stored zip, in the order of their names. Raises UserError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"dataset.local.images is {folder}, in which there is no image file")
    # A data set got from a stranger may hold a link named photo.jpg to a private file of the user's, whose bytes
    # `dvc push` would hand on. Links may also be the user's own way of choosing pictures, and to leave these out
    # unsaid would train on fewer than were meant: so the user is told, and decides.
    home = folder.resolve()
    if outside := [path for path in files if not path.resolve().is_relative_to(home)]:
        raise UserError(
            f"dataset.local.images is {folder}, in which {len(outside)} files are links to files outside it, "
            f"such as {outside[0].relative_to(folder)}: put the files there, or remove the links"
        )
    try:
        write_stored_zip(archive, ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files))
    except UnicodeEncodeError as error:
        raise UserError(
            f"dataset.local.images is {folder}, in which a file's name is not UTF-8: {error.object!r}: rename it"
        ) from error


def load_local(raw: Path, seed: int, val_share: float, test_share: float) -> Dataset:
    """Reads what `take_in` left in `raw`. A COCO captions JSON names no split: it is drawn by a hash of the id."""
    source = raw / ANNOTATIONS
    images, captions = _tables(source)
    if "split" not in images:
        images["split"] = [
            annotations.hashed_split(image_id, seed, val_share, test_share) for image_id in images["image_id"]
        ]
    images["archive"] = IMAGES
    with open_zip(raw / IMAGES) as archive:
        images["member"] = find_members(images["file_name"], archive.namelist())
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, source)


def _tables(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the annotations of either format hold; only a Karpathy JSON gives each image its split."""
    content = annotations.read_json(source)
    if not (isinstance(content, dict) and "images" in content):
        raise UserError(
            f'{source} is neither a COCO captions JSON nor a Karpathy JSON: both are objects with a list "images"'
        )
    return (annotations.read_karpathy if annotations.is_karpathy(content) else annotations.read_coco)(content, source)
