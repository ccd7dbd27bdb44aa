"""Read images from archives, decode them with limits against hostile files, and preprocess them for a CNN."""

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

if TYPE_CHECKING:  # for type checkers only: importing pandas takes half a second, and `caption` does not need it
    import pandas as pd

ImageRow = tuple[Any, str, str]  # image id (int or str), archive, member

# 268 million pixels, or 0.8 GB as RGB. Cameras have up to 200 million; decompression bombs have more than the limit.
_MAX_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = None  # turns off PIL's limit, which only warns about many images; _MAX_PIXELS replaces it
_LARGE = 2**25  # pixels; larger images are decoded one at a time, because each would need up to a GB
_one_large_image = threading.Lock()
_BAND = 2**22  # pixels that are converted at a time
_START_OF_SCAN = b"\xff\xda"
# A progressive JPEG usually has ten scans. A malicious file may have thousands of 23 bytes, which take minutes.
_MAX_SCANS = 500
_TRANSPOSES = dict(enumerate((  # key: EXIF orientation
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), 2))  # fmt: skip


@dataclass(frozen=True)
class Preprocess:
    """Resizes the shorter side to `resize`, crops the centre to `size` x `size`, and normalises, like torchvision.

    If `resize` is None, the complete image is resized to `size` x `size`, because a caption may mention an object at
    the edge.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def min_decode_size(self) -> int:
        """Pixels per side to keep when decoding: twice the size after the resize.

        Then pixel values of a 12-megapixel photograph change by less than half a level (of 256).
        """
        return 2 * (self.resize or self.size)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image of `size` that the CNN sees: left, top, width, height in per cent."""
        if self.resize is None:
            return 0.0, 0.0, 100.0, 100.0
        extent = self.size / self.resize * min(size)
        width, height = (round(100 * extent / side, 2) for side in size)
        return round((100 - width) / 2, 2), round((100 - height) / 2, 2), width, height

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image as uint8 (size, size, 3). Values differ from torchvision's by at most 1."""
        filter_ = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), filter_))
        width, height = (int(self.resize * side / min(image.size)) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        # Resize only the crop. The box is the crop in the coordinates of the original image.
        x, y = image.width / width, image.height / height
        right, bottom = min((left + self.size) * x, image.width), min((top + self.size) * y, image.height)
        return np.asarray(image.resize((self.size, self.size), filter_, box=(left * x, top * y, right, bottom)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return normalised floats (N, 3, size, size), channels last in memory, for uint8 (N, size, size, 3)."""
        mean, std = (torch.tensor(value, device=pixels.device) for value in (self.mean, self.std))
        # (pixels / 255 - mean) / std, in one kernel
        return torch.addcmul(-mean / std, pixels.float(), 1 / (255 * std)).permute(0, 3, 1, 2)


class ImageError(Exception):
    """An image cannot be read. The text is the reason for the table of skipped images."""


class Archives:
    """The zip and tar archives in a folder. Each is opened once. Several threads may read."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, Zip | Tar] = {}
        self._lock = threading.Lock()

    def read(self, archive: str, member: str) -> bytes:
        """Return a member's bytes. Raises ImageError if the member is faulty, UserError if the archive is faulty."""
        with self._lock:
            if archive not in self._open:
                self._open[archive] = open_archive(self._folder / archive)
        try:
            return self._open[archive].read(member, MAX_IMAGE_BYTES)
        except KeyError:
            raise ImageError("missing") from None
        except zipfile.BadZipFile as error:
            raise ImageError(f"damaged archive member: {error}") from error


def image_rows(images: "pd.DataFrame") -> list[ImageRow]:
    """Return the image id, archive and member of each row of an images table."""
    return list(images[["image_id", "archive", "member"]].itertuples(index=False, name=None))


def decoded_pixels(archives: Archives, preprocess: Preprocess, row: ImageRow) -> tuple[Any, np.ndarray | str]:
    """Return the image id and the pixels, uint8 (size, size, 3), or the reason if the image cannot be read."""
    image_id, archive, member = row
    try:
        return image_id, preprocess.pixels(decode(archives.read(archive, member), preprocess.min_decode_size))
    except ImageError as error:
        return image_id, str(error)


def read_pixels(
    images: "pd.DataFrame", raw: Path, preprocess: Preprocess, workers: int
) -> tuple[np.ndarray, list[Any]]:
    """Return the pixels, uint8 (I, size, size, 3), and the ids of the readable images.

    Raises UserError if no image is readable.
    """
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(partial(decoded_pixels, Archives(raw), preprocess), image_rows(images))
        bar = tqdm(results, "reading images", len(images), unit="image", disable=None)
        decoded = dict(bar)
    readable = {image_id: pixels for image_id, pixels in decoded.items() if isinstance(pixels, np.ndarray)}
    if not readable:
        image_id, reason = next(iter(decoded.items()))
        raise UserError(
            f"none of the {len(images)} images in {raw} can be read; the first is image {image_id}: {reason}. Repair "
            "or replace the files."
        )
    return np.stack(list(readable.values())), list(readable)


def decode(data: bytes, min_decode_size: int | None = None) -> Image.Image:
    """Decode an image to RGB as `to_rgb` does. Raises ImageError with the reason if it cannot be decoded.

    If `min_decode_size` is given, a JPEG is decoded at a half, a quarter or an eighth of its size. Both sides keep at
    least `min_decode_size` pixels. This saves time, because a later resize would average these pixels anyway. Large
    images of other formats are reduced after decoding to save memory, because each worker holds an image.
    """
    with _image_errors():
        if not data:
            raise ImageError("empty file")
        kind = _readable_format(data[:HEAD_BYTES])
        try:
            image = Image.open(io.BytesIO(data), formats=[kind])
        except UnidentifiedImageError:
            raise ImageError(f"a damaged {kind} file, or an unsupported variant of {kind}") from None
        pixels = image.width * image.height
        if pixels > _MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels, but the limit is {_MAX_PIXELS} pixels in total")
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and data.count(_START_OF_SCAN) > _MAX_SCANS:
            raise ImageError(f"a JPEG with more than {_MAX_SCANS} scans")
        if is_jpeg and min_decode_size is not None:
            image.draft(None, (min_decode_size, min_decode_size))
        if not image.info.get("progressive"):  # a progressive JPEG needs memory for its full size even after draft()
            pixels = image.width * image.height
        with _one_large_image if pixels > _LARGE else nullcontext():
            rgb = to_rgb(image)
            if min_decode_size is not None and rgb.width * rgb.height > _LARGE:
                rgb = rgb.reduce(max(1, min(rgb.size) // min_decode_size))
            return rgb


def _readable_format(head: bytes) -> str:
    """Return the image format of the file, the only one that PIL is allowed to try. Raises ImageError if unsupported.

    Without this restriction, PIL would try all its formats. One is PostScript, and PIL runs PostScript files in an
    external interpreter.
    """
    kind = image_type(head)
    if kind is None:
        raise ImageError(placeholder(head) or "not an image")
    if kind not in READ_TYPES:
        raise ImageError(f"the format {kind} is not supported; convert the image to JPEG or PNG")
    if kind == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            fix = "run pip install pillow-heif, or convert the image to JPEG"
            raise ImageError(f"the format HEIC needs pillow-heif; {fix}") from None
        register_heif_opener()
    return kind


def heif_version() -> str | None:
    """Return the version of pillow-heif, or None if it is not installed. It is needed to read HEIC images."""
    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB, rotated by its EXIF orientation, with transparency on white. Raises ImageError."""
    with _image_errors():
        image.load()
        if image.mode == "F":  # such a file does not say which value is white
            raise ImageError("the pixels are floating-point numbers; convert the image to 8 bits")
        # Not ImageOps.exif_transpose, because it fails if any EXIF tag is malformed. An image without an orientation
        # raises KeyError here.
        orientation = None
        with suppress(Exception):
            orientation = _TRANSPOSES[image.getexif()[ExifTags.Base.Orientation]]
        if image.mode != "RGB" or image.has_transparency_data:
            image = _convert(image)
        return image if orientation is None else image.transpose(orientation)


def _convert(image: Image.Image) -> Image.Image:
    """Convert an image of another mode to RGB, one band of rows at a time to limit the memory."""
    rgb = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if band.mode.startswith("I"):  # 16-bit grey: PIL's conversion would clip values above 255 to white
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
