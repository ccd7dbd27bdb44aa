"""From images in zips to the input of a CNN: decoding, within bounds against hostile files, and preprocessing."""

import io
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from lib.core.archives import Tar, Zip, open_archive
from lib.core.errors import UserError, one_line
from lib.core.file_types import HEAD_BYTES, READ_TYPES, image_type, placeholder
from lib.core.zips import MAX_IMAGE_BYTES

if TYPE_CHECKING:  # its import takes half a second, and `caption` needs none
    import pandas as pd

ImageRow = tuple[Any, str, str]  # image id (int or text), archive, member

_MAX_PIXELS = 2**28  # 268 million, 0.8 GB as RGB: cameras have up to 200 million, and a decompression bomb has more
Image.MAX_IMAGE_PIXELS = None  # replaced by the limit above, because PIL's own only warns at first
_LARGE = 2**25  # pixels; larger images are decoded one at a time, because each worker would need a GB
_one_large_image = threading.Lock()
_BAND = 2**22  # pixels that change their mode at a time
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 500  # of a progressive JPEG; ten are usual, and a thousand scans of 23 bytes each take minutes
_TRANSPOSES = dict(enumerate((  # by EXIF orientation
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), 2))  # fmt: skip


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side to `resize`, crop the centre `size` x `size` and normalise, as torchvision's presets do.

    Without `resize`, resize the complete image to `size` x `size`, because a caption may mention what is at the edge.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def min_decode_size(self) -> int:
        """Twice what the resize keeps: then pixels of a 12-megapixel photograph change by less than half a level."""
        return 2 * (self.resize or self.size)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the crop of an image of `size` that the CNN sees: left, top, width, height in per cent."""
        if self.resize is None:
            return 0.0, 0.0, 100.0, 100.0
        extent = self.size / self.resize * min(size)
        width, height = (round(100 * extent / side, 2) for side in size)
        return round((100 - width) / 2, 2), round((100 - height) / 2, 2), width, height

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image as uint8 (size, size, 3); within one level of torchvision's result."""
        filter_ = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), filter_))
        width, height = (int(self.resize * side / min(image.size)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        # Resize the crop alone: the box is the crop in the pixels of the image.
        x, y = image.width / width, image.height / height
        right, bottom = min((left + self.size) * x, image.width), min((top + self.size) * y, image.height)
        return np.asarray(image.resize((self.size, self.size), filter_, box=(left * x, top * y, right, bottom)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, size, size, 3) -> float (N, 3, size, size), channels last in memory."""
        mean, std = (torch.tensor(value, device=pixels.device) for value in (self.mean, self.std))
        # (pixels / 255 - mean) / std in one pass over memory
        return torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std)).permute(0, 3, 1, 2)


class ImageError(Exception):
    """An image cannot be read; the text is the reason, for the table of skipped images."""


class Archives:
    """The zips and tars of a folder, each opened once, and closed with this object. Several threads may read."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, Zip | Tar] = {}
        self._lock = threading.Lock()

    def read(self, archive: str, member: str) -> bytes:
        """Return the bytes of a member. Raises ImageError if it is missing or broken, UserError if the archive is."""
        with self._lock:
            if archive not in self._open:
                self._open[archive] = open_archive(self._folder / archive)
        try:
            return self._open[archive].read(member, MAX_IMAGE_BYTES)
        except KeyError:
            raise ImageError("missing") from None
        except zipfile.BadZipFile as error:
            raise ImageError(f"broken archive member: {error}") from error


def image_rows(images: "pd.DataFrame") -> list[ImageRow]:
    """Return the rows of an images table."""
    return list(images[["image_id", "archive", "member"]].itertuples(index=False, name=None))


def decoded_pixels(archives: Archives, preprocess: Preprocess, row: ImageRow) -> tuple[Any, np.ndarray | str]:
    """Return the image id with its pixels (size, size, 3) uint8, or with the reason if the image cannot be read."""
    image_id, archive, member = row
    try:
        return image_id, preprocess.pixels(decode(archives.read(archive, member), preprocess.min_decode_size))
    except ImageError as error:
        return image_id, str(error)


def read_pixels(
    images: "pd.DataFrame", raw: Path, preprocess: Preprocess, workers: int
) -> tuple[np.ndarray, list[Any]]:
    """Return the pixels (I, size, size, 3) uint8 and the ids of the readable images. Raises UserError if none is."""
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(decoded_pixels, Archives(raw), preprocess), image_rows(images))
        bar = tqdm(results, "reading images", len(images), unit="image", disable=None)
        readable = {image_id: pixels for image_id, pixels in bar if isinstance(pixels, np.ndarray)}
    if not readable:
        raise UserError(f"none of the {len(images)} images in {raw} can be read; check its files")
    return np.stack(list(readable.values())), list(readable)


def decode(data: bytes, min_decode_size: int | None = None) -> Image.Image:
    """Return the image as RGB, as `to_rgb` does. Raises ImageError with the reason if it cannot be decoded.

    With `min_decode_size`, a JPEG is decoded at a half, a quarter or an eighth of its size if both sides keep at least
    that many pixels. This saves work on pixels that a later resize would average away. An image of another format is
    reduced in the same way if it is large, because several workers hold one each.
    """
    with _image_errors():
        if not data:
            raise ImageError("empty file")
        kind = _readable_format(data[:HEAD_BYTES])
        try:
            image = Image.open(io.BytesIO(data), formats=[kind])
        except UnidentifiedImageError:
            raise ImageError(f"a damaged or unknown form of {kind}") from None
        pixels = image.width * image.height
        if pixels > _MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels are too many; the limit is {_MAX_PIXELS} in all")
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and data.count(_START_OF_SCAN) > _MAX_SCANS:
            raise ImageError("a JPEG of too many scans")
        if is_jpeg and min_decode_size is not None:
            image.draft(None, (min_decode_size, min_decode_size))
        if not image.info.get("progressive"):  # a progressive JPEG needs memory for all of its pixels
            pixels = image.width * image.height
        with _one_large_image if pixels > _LARGE else nullcontext():
            rgb = to_rgb(image)
            if min_decode_size is not None and rgb.width * rgb.height > _LARGE:
                rgb = rgb.reduce(max(1, min(rgb.size) // min_decode_size))
            return rgb


def _readable_format(head: bytes) -> str:
    """Return the name of PIL's only decoder that may see the file. Raises ImageError if there is none.

    PIL would also try formats that are programs, such as PostScript, which an external interpreter runs.
    """
    kind = image_type(head)
    if kind is None:
        raise ImageError(placeholder(head) or "not an image")
    if kind not in READ_TYPES:
        raise ImageError(f"a picture of type {kind}, which is not read; convert it to JPEG or PNG")
    if kind == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ImageError("a HEIC picture; run pip install pillow-heif to read it, or convert it to JPEG") from None
        register_heif_opener()
    return kind


def heif_version() -> str | None:
    """Return the version of pillow-heif, or None if it is not installed. With it, more images can be read."""
    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB: upright by its EXIF, transparency on white, 16 bits scaled to 8. Raises ImageError."""
    with _image_errors():
        image.load()
        if image.mode == "F":  # without a scale, nobody knows which value is white
            raise ImageError("pixels are floating-point numbers")
        # ImageOps.exif_transpose fails if any other tag is malformed. Without an orientation, this raises a KeyError.
        orientation = None
        with suppress(Exception):
            orientation = _TRANSPOSES[image.getexif()[ExifTags.Base.Orientation]]
        if image.mode != "RGB" or image.has_transparency_data:
            image = _convert(image)
        return image if orientation is None else image.transpose(orientation)


def _convert(image: Image.Image) -> Image.Image:
    """Return an image of another mode as RGB, a band at a time, so that the parts in other modes are small."""
    rgb = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if band.mode.startswith("I"):  # 16-bit grey, which PIL's own conversion would clip to white
            band = Image.fromarray((np.asarray(band).clip(0, 65535) // 257).astype(np.uint8))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        rgb.paste(band.convert("RGB"), (0, top))
    return rgb


@contextmanager
def _image_errors() -> Iterator[None]:
    """Turn any error that a decoder raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be decoded: {one_line(error)}") from error
