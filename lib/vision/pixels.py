"""From rows of an images table to preprocessed pixels."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.core.errors import UserError
from lib.vision.images import Archives, ImageError, decode
from lib.vision.preprocess import Preprocess

ImageRow = tuple[int, str, str]  # image id, archive, member
Decoded = tuple[int, np.ndarray | str]  # image id, and its pixels or why there are none


def image_rows(images: pd.DataFrame) -> list[ImageRow]:
    """The rows of an images table that `decoded_pixels` takes."""
    return list(images[["image_id", "archive", "member"]].itertuples(index=False, name=None))


def decoded_pixels(archives: Archives, preprocess: Preprocess, row: ImageRow) -> Decoded:
    """One image's id with its pixels, (size, size, 3) uint8, or with the reason why there are none."""
    image_id, archive, member = row
    try:
        return image_id, preprocess.pixels(decode(archives.read(archive, member), preprocess.min_decode_size))
    except ImageError as error:
        return image_id, str(error)


def read_pixels(
    images: pd.DataFrame, raw: Path, preprocess: Preprocess, *, workers: int
) -> tuple[np.ndarray, list[int]]:
    """The preprocessed pixels of the images that can be read, (I, size, size, 3) uint8, and their ids.

    Raises UserError when none can.
    """
    archives = Archives(raw)
    with ThreadPoolExecutor(workers) as pool:
        work = pool.map(partial(decoded_pixels, archives, preprocess), image_rows(images))
        progress = tqdm(work, "reading pictures", len(images), unit="image", disable=None)
        good = [(image_id, found) for image_id, found in progress if isinstance(found, np.ndarray)]
    archives.close()
    if not good:
        raise UserError(f"none of the {len(images)} images can be read: are they in {raw}?")
    return np.stack([pixels for _, pixels in good]), [image_id for image_id, _ in good]
