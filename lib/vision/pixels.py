"""From the rows of an images table to preprocessed pixels."""

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


def image_rows(images: pd.DataFrame) -> list[ImageRow]:
    """Return the rows of an images table for `decoded_pixels`."""
    return list(images[["image_id", "archive", "member"]].itertuples(index=False, name=None))


def decoded_pixels(archives: Archives, preprocess: Preprocess, row: ImageRow) -> tuple[int, np.ndarray | str]:
    """Return the image id with its pixels (size, size, 3) uint8, or with the reason if the image cannot be read."""
    image_id, archive, member = row
    try:
        return image_id, preprocess.pixels(decode(archives.read(archive, member), preprocess.min_decode_size))
    except ImageError as error:
        return image_id, str(error)


def read_pixels(
    images: pd.DataFrame, raw: Path, preprocess: Preprocess, *, workers: int
) -> tuple[np.ndarray, list[int]]:
    """Return the pixels (I, size, size, 3) uint8 and the ids of the images that can be read.

    Raises UserError if none can.
    """
    archives = Archives(raw)
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(decoded_pixels, archives, preprocess), image_rows(images))
        bar = tqdm(results, "reading images", len(images), unit="image", disable=None)
        readable = [(image_id, pixels) for image_id, pixels in bar if isinstance(pixels, np.ndarray)]
    archives.close()
    if not readable:
        raise UserError(f"none of the {len(images)} images in {raw} can be read; check its files")
    return np.stack([pixels for _, pixels in readable]), [image_id for image_id, _ in readable]
