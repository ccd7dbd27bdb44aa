"""`local`: your own images (a folder or a zip) and captions (a file of any supported format)."""

import shutil
import zipfile
from pathlib import Path

from lib.core.errors import UserError, readable_errors
from lib.core.file_types import HEAD_BYTES, is_image
from lib.core.zips import find_members, open_zip, write_stored_zip
from lib.datasets.annotations import hashed_split, read_annotations
from lib.datasets.dataset import Dataset

IMAGES, ANNOTATIONS = "images.zip", "annotations.json"


def import_local(images: Path, captions: Path, raw: Path) -> None:
    """Copy the user's files into `raw`; pack a folder of images into one stored zip. Raises UserError."""
    for path, param in ((images, "dataset.local.images"), (captions, "dataset.local.annotations")):
        if not path.exists():
            raise UserError(f"{param}={path} does not exist")
    read_annotations(captions)  # here its errors name the user's own file
    raw.mkdir(parents=True, exist_ok=True)
    if images.is_dir():
        pack_images(images, raw / IMAGES)
    elif zipfile.is_zipfile(images):
        shutil.copyfile(images, raw / IMAGES)
    else:
        raise UserError(f"dataset.local.images={images} is neither a folder nor a zip")
    shutil.copyfile(captions, raw / ANNOTATIONS)


def pack_images(folder: Path, archive: Path) -> None:
    """Pack the image files below `folder` into one stored zip, sorted by name. Raises UserError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_image(path))
    if not files:
        raise UserError(f"dataset.local.images={folder} contains no image file")
    # In a folder from a stranger, photo.jpg may link to a private file of the user, which `dvc push` would publish.
    # Skipping links silently would train on fewer images than the user expects, so the user decides.
    root = folder.resolve()
    if outside := [path for path in files if not path.resolve().is_relative_to(root)]:
        problem = f"{outside[0].relative_to(folder)} and {len(outside) - 1} others link to files outside it"
        raise UserError(f"dataset.local.images={folder}: {problem}; replace the links by the files or remove them")
    try:
        write_stored_zip(archive, ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files))
    except UnicodeEncodeError as error:
        raise UserError(f"dataset.local.images={folder}: {error.object!r} is not UTF-8; rename the file") from error


def _is_image(path: Path) -> bool:
    with readable_errors(path), path.open("rb") as file:
        return is_image(path.name, file.read(HEAD_BYTES))


def load_local(raw: Path, seed: int, val_share: float, test_share: float) -> Dataset:
    """Read what `import_local` wrote to `raw`. If the annotations name no split, draw it by a hash of the image id."""
    source = raw / ANNOTATIONS
    images, captions = read_annotations(source)
    if "split" not in images:
        images["split"] = [hashed_split(image_id, seed, val_share, test_share) for image_id in images["image_id"]]
    with open_zip(raw / IMAGES) as archive:
        members = find_members(images["file_name"], archive.namelist())
    images = images.assign(archive=IMAGES, member=members)
    return Dataset(images[["image_id", "archive", "member", "split"]], captions, source)
