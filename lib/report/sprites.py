"""Pack thumbnails into a few large JPEGs, because thousands of small files slow down browsers, disks and DVC."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.vision.images import Archives, ImageRow, decode

SIDE = 224  # pixels of a cell: a multiple of JPEG's 16-pixel blocks, so that colours do not leak into the next cell
PER_ROW = 8  # cells; a sprite has at most as many rows
MARGIN = 2  # pixels around a thumbnail in its cell
_MAX_SIDE = SIDE - 2 * MARGIN  # pixels of a thumbnail

Size = tuple[int, int]  # width, height in pixels


def write_sprites(
    rows: Sequence[ImageRow], archives: Archives, folder: Path, workers: int
) -> tuple[list[Path], list[Size]]:
    """Pack the images, row by row, into sprites of PER_ROW x PER_ROW cells.

    Return the paths of the sprites in `folder` and the sizes of the thumbnails. `workers` threads make the
    thumbnails; the bytes do not depend on their number. Only one sprite is in memory at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sprites: list[Path] = []
    sizes: list[Size] = []
    with ThreadPoolExecutor(workers) as pool:
        for first in tqdm(range(0, len(rows), PER_ROW**2), "packing thumbnails", unit="sprite", disable=None):
            thumbnails = list(pool.map(partial(thumbnail, archives), rows[first : first + PER_ROW**2]))
            sprites.append(folder / f"sprite-{len(sprites):03d}.jpg")
            _pack(thumbnails).save(sprites[-1], quality=80)
            sizes += [image.size for image in thumbnails]
    return sprites, sizes


def thumbnail(archives: Archives, row: ImageRow) -> Image.Image:
    """Return the image, small enough for a cell. Raises ImageError if it cannot be read."""
    _, archive, member = row
    image = decode(archives.read(archive, member), _MAX_SIDE)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return image


def _pack(thumbnails: Sequence[Image.Image]) -> Image.Image:
    sprite = np.zeros((-(-len(thumbnails) // PER_ROW) * SIDE, PER_ROW * SIDE, 3), np.uint8)
    for cell, image in enumerate(thumbnails):
        top, left = SIDE * (cell // PER_ROW), SIDE * (cell % PER_ROW)
        # Repeat the edge pixels in the rest of the cell, because a browser that scales the sprite blends neighbours.
        padding = [(MARGIN, SIDE - MARGIN - side) for side in (image.height, image.width)]
        sprite[top : top + SIDE, left : left + SIDE] = np.pad(np.asarray(image), [*padding, (0, 0)], "edge")
    return Image.fromarray(sprite)
