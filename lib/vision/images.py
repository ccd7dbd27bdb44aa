"""Reading images as a viewer would show them."""

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

_MOST_PIXELS = 150_000_000  # 450 MB as RGB: no camera's picture is refused, and no bomb fills the memory
Image.MAX_IMAGE_PIXELS = None  # PIL's own limit warns, before it refuses: `decode` has the limit above
# PIL knows many more kinds; some, like PostScript, are programs, which it has another program run.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
_START_OF_SCAN = b"\xff\xda"
_MOST_SCANS = 500  # of a progressive JPEG; ten are usual, and a thousand in a row of 23 bytes each take minutes
_TURNS = dict(enumerate((  # by EXIF's number
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), 2))  # fmt: skip


class ImageError(Exception):
    """An image cannot be had; the text is the reason, for the table of skipped images."""


class Archives:
    """The zips of a raw folder, each opened once. Reading is safe from several threads."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, zipfile.ZipFile] = {}
        self._opening = threading.Lock()

    def read(self, archive: str, member: str) -> bytes:
        """The bytes of one member. Raises ImageError where it is missing or broken, UserError where the zip is."""
        with self._opening:
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
    """The picture as RGB: turned as its EXIF says, transparency on white, 16 bits brought to 8.

    With `min_decode_size`, a JPEG of which both sides stay that many pixels or more at a half, a quarter or an eighth of its
    size is decoded at that size: the decoder then skips the work for what a later resize would average away.

    Raises ImageError with the reason where it cannot be decoded whole.
    """
    if not data:
        raise ImageError("empty file")
    with _wild():
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        if opened.width * opened.height > _MOST_PIXELS:
            raise ImageError(f"{opened.width} x {opened.height} pixels are too many")
        if opened.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _MOST_SCANS:
            raise ImageError("a JPEG of too many scans")
        if min_decode_size is not None:
            opened.draft(None, (min_decode_size, min_decode_size))
    return to_rgb(opened)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of PIL's as `decode` gives it. Raises ImageError where its file turns out to be broken."""
    with _wild():
        image.load()
        image = _upright(image)
        if image.mode == "F":  # without a scale, a viewer cannot know what is white
            raise ImageError("pixels are floating-point numbers")
        if image.mode.startswith("I"):  # 16 bits of grey; PIL's own conversion would clip them to white
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, where that can be read.

    ImageOps.exif_transpose would write the EXIF anew, without the turn, and so fail where any other tag of it is odd.
    """
    try:
        turn = _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # there is none, or wild bytes: they may make its reader raise almost anything
        return image
    return image if turn is None else image.transpose(turn)


@contextmanager
def _wild() -> Iterator[None]:
    """Turns whatever a decoder that meets wild bytes raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:
        raise ImageError(f"cannot be decoded: {one_line(error)}") from error
