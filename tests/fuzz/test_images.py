"""Malformed images are decoded, or rejected with a one-line reason."""

import warnings

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from lib.vision.images import ImageError, Preprocess, decode
from tests.fuzz.strategies import corrupted, fuzz
from tests.pictures import saved

GREY = Image.effect_noise((40, 30), 80)
NOISE = Image.merge("RGB", [GREY, GREY.rotate(180), GREY])
TURNED = Image.Exif()
TURNED[0x0112] = 6
CROP = Preprocess(size=16, resize=20, mean=(0, 0, 0), std=(1, 1, 1))
IMAGES = [
    saved(NOISE, "JPEG", exif=TURNED),
    saved(NOISE, "JPEG", progressive=True),
    saved(NOISE.convert("CMYK"), "JPEG"),
    saved(NOISE, "PNG"),
    saved(NOISE.quantize(), "PNG", transparency=3),
    saved(GREY.convert("LA"), "PNG"),
    saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    saved(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)]),
    saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]),
    saved(NOISE, "WEBP"),
    saved(NOISE.convert("RGBA"), "WEBP", lossless=True, save_all=True, append_images=[NOISE.convert("RGBA")]),
    saved(NOISE, "BMP"),
    saved(NOISE, "TIFF", compression="tiff_lzw"),
    saved(NOISE, "TIFF", compression="jpeg"),
]


SIZES = st.sampled_from([None, 8, CROP.min_decode_size])


@fuzz(content=st.one_of(corrupted(*IMAGES), st.binary()), min_decode_size=SIZES)
def test_images(content, min_decode_size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns about malformed data that it can read
        try:
            image, reason = decode(content, min_decode_size), "decoded"
        except ImageError as error:
            image, reason = Image.new("RGB", (1, 1)), str(error)
        assert len(reason.splitlines()) == 1
        assert image.mode == "RGB"
        assert CROP.pixels(image).shape == (16, 16, 3)
