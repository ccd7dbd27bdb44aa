"""Thumbnails, packed into a few large JPEGs: browsers, disks and DVC all take longer for thousands of small files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.vision.images import Archives, decode
from lib.vision.pixels import ImageRow

SIDE = 224  # pixels of a cell: a multiple of JPEG's blocks of 16, so that no cell's colours run into the next
PER_ROW = 8  # cells; a sheet has at most as many rows
MARGIN = 2  # pixels around a thumbnail in its cell
_LONGEST = SIDE - 2 * MARGIN  # pixels of a thumbnail's longer side
_QUALITY = 80

Size = tuple[int, int]  # width, height in pixels


def write_sheets(
    rows: Sequence[ImageRow], archives: Archives, folder: Path, workers: int
) -> tuple[list[Path], list[Size]]:
    """Packs the images into sheets of PER_ROW x PER_ROW cells, row by row, each MARGIN from the top left of its cell.

    Returns the sheets, JPEGs in `folder`, and the sizes of the thumbnails. One sheet is in memory at a time; `workers`
    threads share the thumbnails, and the bytes do not depend on how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets: list[Path] = []
    sizes: list[Size] = []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(desc="packing pictures", total=len(rows), unit="image", disable=None) as progress,
    ):
        for part in _parts(rows):
            thumbnails = list(pool.map(partial(thumbnail, archives), part))
            sheets.append(folder / f"pictures-{len(sheets):03d}.jpg")
            _sheet(thumbnails).save(sheets[-1], quality=_QUALITY)
            sizes += [picture.size for picture in thumbnails]
            progress.update(len(part))
    return sheets, sizes


def thumbnail(archives: Archives, row: ImageRow) -> Image.Image:
    """The picture, small enough for a cell. Raises ImageError where it cannot be read."""
    _, archive, member = row
    picture = decode(archives.read(archive, member), _LONGEST)
    picture.thumbnail((_LONGEST, _LONGEST))
    return picture


def _parts(rows: Sequence[ImageRow]) -> Iterator[Sequence[ImageRow]]:
    for first in range(0, len(rows), PER_ROW**2):
        yield rows[first : first + PER_ROW**2]


def _sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    sheet = np.zeros((-(-len(pictures) // PER_ROW) * SIDE, PER_ROW * SIDE, 3), np.uint8)
    for cell, picture in enumerate(pictures):
        top, left = SIDE * (cell // PER_ROW), SIDE * (cell % PER_ROW)
        # The rest of a cell goes on with the picture's edge: scaled, an edge takes in a part of what is beside it.
        rest = [(MARGIN, SIDE - MARGIN - side) for side in (picture.height, picture.width)]
        sheet[top : top + SIDE, left : left + SIDE] = np.pad(np.asarray(picture), [*rest, (0, 0)], "edge")
    return Image.fromarray(sheet)
