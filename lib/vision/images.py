"""Reading images as a viewer would show them."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(Exception):
    """An image cannot be had; the text is the reason, for the table of skipped images."""


class Archives:
    """The zips of a raw folder, each opened once. Reading is safe from several threads."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, zipfile.ZipFile] = {}

    def read(self, archive: str, member: str) -> bytes:
        """The bytes of one member; raises ImageError where it is missing or broken."""
        if archive not in self._open:
            self._open[archive] = zipfile.ZipFile(self._folder / archive)
        try:
            return self._open[archive].read(member)
        except KeyError:
            raise ImageError("missing") from None
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ImageError(f"broken zip member: {error}") from error

    def close(self) -> None:
        for archive in self._open.values():
            archive.close()


def decode(data: bytes) -> Image.Image:
    """The picture as RGB: turned as its EXIF says, transparency on white, 16 bits brought to 8.

    Raises ImageError with the reason where it cannot be decoded whole.
    """
    if not data:
        raise ImageError("empty file")
    try:
        opened = Image.open(io.BytesIO(data))
        opened.load()
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:  # a decoder meeting wild bytes may raise anything
        raise ImageError(f"cannot be decoded: {error}") from error
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits of grey; PIL's own conversion would clip them to white
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
