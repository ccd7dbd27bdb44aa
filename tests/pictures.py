"""Make image files for tests."""

import io

from PIL import Image


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """Return the bytes of an image file."""
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()
