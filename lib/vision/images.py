"""Reading images as a viewer shows them, within bounds that hold against hostile files."""

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lib.core.errors import one_line
from lib.core.zips import MAX_IMAGE_BYTES, open_zip, read_member

_MAX_PIXELS = 150_000_000  # 450 MB as RGB: more than any camera's, and less than a decompression bomb
Image.MAX_IMAGE_PIXELS = None  # replaced by the limit above, because PIL's own only warns at first
# PIL reads more formats; some, like PostScript, are programs that an external interpreter runs.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 500  # of a progressive JPEG; ten are usual, and a thousand scans of 23 bytes each take minutes
_TRANSPOSES = dict(enumerate((  # by EXIF orientation
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), 2))  # fmt: skip


class ImageError(Exception):
    """An image cannot be read; the text is the reason, for the table of skipped images."""


class Archives:
    """The zips of a folder, each opened once. Several threads may read."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, zipfile.ZipFile] = {}
        self._lock = threading.Lock()

    def read(self, archive: str, member: str) -> bytes:
        """Return the bytes of a member. Raises ImageError if it is missing or broken, UserError if the zip is."""
        with self._lock:
            if archive not in self._open:
                self._open[archive] = open_zip(self._folder / archive)
        try:
            return read_member(self._open[archive], member, MAX_IMAGE_BYTES)
        except KeyError:
            raise ImageError("missing") from None
        except zipfile.BadZipFile as error:
            raise ImageError(f"broken zip member: {error}") from error

    def close(self) -> None:
        for archive in self._open.values():
            archive.close()


def decode(data: bytes, min_decode_size: int | None = None) -> Image.Image:
    """Return the image as RGB, as `to_rgb` does. Raises ImageError with the reason if it cannot be decoded.

    With `min_decode_size`, a JPEG is decoded at a half, a quarter or an eighth of its size if both sides keep at least
    that many pixels. This saves work on pixels that a later resize would average away.
    """
    if not data:
        raise ImageError("empty file")
    with _image_errors():
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels are too many")
        if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _MAX_SCANS:
            raise ImageError("a JPEG of too many scans")
        if min_decode_size is not None:
            image.draft(None, (min_decode_size, min_decode_size))
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB: upright by its EXIF, transparency on white, 16 bits scaled to 8. Raises ImageError."""
    with _image_errors():
        image.load()
        image = _upright(image)
        if image.mode == "F":  # without a scale, nobody knows which value is white
            raise ImageError("pixels are floating-point numbers")
        if image.mode.startswith("I"):  # 16-bit grey, which PIL's own conversion would clip to white
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation says. ImageOps.exif_transpose fails if any other tag is malformed."""
    try:
        transpose = _TRANSPOSES.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # a malformed EXIF makes its reader raise almost anything
        return image
    return image if transpose is None else image.transpose(transpose)


@contextmanager
def _image_errors() -> Iterator[None]:
    """Turn any error that a decoder raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:
        raise ImageError(f"cannot be decoded: {one_line(error)}") from error
