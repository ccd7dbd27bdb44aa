"""Recognise images by their first bytes, and text files that were saved in place of an image."""

from pathlib import PurePath

HEAD_BYTES = 64  # enough for every signature in this module

# The brands in the header of HEIF (ISO/IEC 23008-12) and AVIF files. Both formats use the same container.
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"MM*\0": "TIFF",
    b"II\0*": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    # Image formats that are recognised but not supported.
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "PSD",
    b"FUJIFILMCCD-RAW": "RAF",
    b"<svg": "SVG",
}
READ_TYPES = {"JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # header sizes in bytes; needed because a text may also start with "BM"

# A file with one of these suffixes counts as an image even if it is damaged or in an unsupported format.
IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jif", ".jp2", ".jpc", ".jpe", ".jpeg",
    ".jpf", ".jpg", ".jpx", ".jxl", ".png", ".tif", ".tiff", ".webp",
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pgm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga",
}  # fmt: skip


def image_type(head: bytes) -> str | None:
    """Return the image format by the first HEAD_BYTES bytes, or None. READ_TYPES lists the supported formats."""
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, length - 3, 4))}  # bytes 12 to 16 are a version
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
        return "CR3" if head[8:12] == b"crx " else None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)


def is_image(name: str, head: bytes) -> bool:
    """Return whether a file is an image by its content or by its suffix. `head` is its first HEAD_BYTES bytes or more.

    An image needs no suffix. A file that has only the suffix of an image counts too. It cannot be read, so a later step
    reports it instead of silently ignoring it.
    """
    return image_type(head) is not None or PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def placeholder(head: bytes) -> str | None:
    """Return a description of a text file that was saved in place of an image, with the fix; None for other files."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run git lfs pull"
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, not the file itself; download it again"
    return None
