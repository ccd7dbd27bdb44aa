"""Pictures as files."""

import io

from PIL import Image


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of the file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
