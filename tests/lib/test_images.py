"""Images are decoded as an image viewer shows them, or rejected with a reason."""

import io
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms._presets import ImageClassification

from lib.core.archives import open_archive
from lib.core.errors import UserError
from lib.core.file_types import HEAD_BYTES, is_image
from lib.core.zips import write_stored_zip
from lib.vision import images
from lib.vision.images import Archives, ImageError, Preprocess, decode
from tests.pictures import saved

RED = Image.new("RGB", (8, 6), (200, 30, 40))


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (saved(RED), (200, 30, 40)),
        (saved(RED.quantize()), (200, 30, 40)),
        (saved(Image.new("L", (8, 6), 77)), (77, 77, 77)),
        (saved(Image.new("1", (8, 6), 1)), (255, 255, 255)),
        (saved(Image.new("RGBA", (8, 6), (0, 0, 0, 0))), (255, 255, 255)),
        (saved(Image.new("LA", (8, 6), (10, 255))), (10, 10, 10)),
        (saved(Image.fromarray(np.full((6, 8), 257 * 90, np.uint16))), (90, 90, 90)),
        (saved(RED.convert("CMYK"), "JPEG", quality=100), (200, 30, 40)),
    ],
    ids=["rgb", "palette", "grey", "bits", "transparent", "grey-alpha", "16-bit", "cmyk"],
)
def test_every_mode_is_decoded_as_a_viewer_shows_it(data, colour):
    image = decode(data)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 8


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(Image.effect_noise((24, 16), 50), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert decode(data).tobytes() == upright.tobytes()
    assert decode(data).size == upright.size


@pytest.mark.parametrize(("tag", "kind"), [(ExifTags.Base.ResolutionUnit, 1), (ExifTags.Base.XResolution, 2)])
def test_exif_orientation_is_applied_even_if_another_tag_is_malformed(tag, kind):
    # Malformed tags: a number as a byte, and a ratio as text.
    entries = struct.pack("<HHLLHHLL", ExifTags.Base.Orientation, 3, 1, 6, tag, kind, 1, 50)
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    assert decode(saved(RED, "JPEG", exif=exif)).size == (6, 8)
    assert decode(saved(RED, "WEBP", exif=b"Exif\0\0no TIFF file")).size == (8, 6)


def test_a_zip_that_several_threads_read_is_opened_once(tmp_path, monkeypatch):
    write_stored_zip(tmp_path / "a.zip", [("a", b"a")])
    opened = []

    def slowly(path):
        opened.append(path)
        time.sleep(0.05)
        return open_archive(path)

    monkeypatch.setattr(images, "open_archive", slowly)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(Archives(tmp_path).read, ["a.zip"] * 8, ["a"] * 8)) == [b"a"] * 8
    assert len(opened) == 1


NOISE = saved(Image.effect_noise((64, 64), 50), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (NOISE[: len(NOISE) // 2], "cannot be decoded"),
        *[(saved(RED, kind), "not an image") for kind in ("EPS", "PDF", "PPM", "ICO")],
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "HTML page"),
        (b"8BPS\0\1", "PSD.*JPEG or PNG"),
        (saved(Image.fromarray(np.full((6, 8), 0.5, np.float32)), "TIFF"), "floating-point"),
        (saved(Image.new("1", (20_000, 20_000))), "20000 x 20000 pixels"),
    ],
)
def test_other_files_are_rejected_with_a_reason(data, reason):
    assert len(data) < 100_000
    with pytest.raises(ImageError, match=reason):
        decode(data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
READ = {
    "photo.jfif": saved(RED, "JPEG"), "photo": saved(RED, "PNG"), "photo.txt": saved(RED, "GIF"),
    "photo.png": saved(RED, "JPEG2000"), "photo.j2k": saved(RED, "JPEG2000", no_jp2=True), "a.bmp": saved(RED, "BMP"),
    "photo.jpg": saved(RED, "WEBP"), "a.avif": saved(RED, "AVIF"), "photo.jpeg": saved(RED, "TIFF"),
    "two.jpg": saved(RED, "MPO", save_all=True, append_images=[RED]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_known_by_its_content_whatever_its_name(name):
    assert is_image(name, READ[name][:HEAD_BYTES])
    assert np.abs(np.asarray(decode(READ[name])).astype(int) - (200, 30, 40)).max() <= 8


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("IMG_1.HEIC", HEIC, True), ("IMG_1", HEIC, True), ("broken.jpg", b"text", True), ("empty.PNG", b"", True),
    ("layers", b"8BPS", True), ("raw.NEF", b"", True), ("x", b"\xff\x0a", True), ("logo.svg", b"<?xml", True),
    ("notes.txt", b"BMW drives past", False), ("captions.json", b"{}", False),
    ("clip.mov", b"\0\0\0\x14ftypqt  ", False),
    ("Makefile", b"all:", False), ("words.csv", b"a,b", False), ("song.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0isom", False),
])  # fmt: skip
def test_is_image_tells_pictures_from_other_files(name, content, expected):
    assert is_image(name, content) is expected


def test_heic_without_its_package_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC.*pip install pillow-heif"):
        decode(HEIC)


def test_heic_is_read_with_its_package():
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is an optional package")
    pillow_heif.register_heif_opener()
    photo = saved(Image.new("RGB", (64, 48), (200, 30, 40)), "HEIF")
    assert is_image("photo", photo[:HEAD_BYTES])
    for size in (None, 16):
        assert np.abs(np.asarray(decode(photo, size)).astype(int) - (200, 30, 40)).max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_a_conversion_in_bands_gives_the_pixels_of_the_whole(monkeypatch, mode):
    image = Image.effect_noise((40, 30), 80)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    whole = images.to_rgb(image)
    monkeypatch.setattr(images, "_BAND", 7 * 40)
    assert images.to_rgb(image).tobytes() == whole.tobytes()


def test_a_picture_of_200_megapixels_is_decoded_at_an_eighth():
    data = saved(Image.new("L", (16_320, 12_240), 90), "JPEG")
    assert decode(data, 512).size == (2040, 1530)


def test_a_large_picture_that_is_no_jpeg_is_reduced(monkeypatch):
    monkeypatch.setattr(images, "_LARGE", 1000)
    assert decode(saved(Image.new("RGB", (400, 300), "red")), 50).size == (67, 50)
    assert decode(saved(Image.new("RGB", (400, 300), "red"))).size == (400, 300)


def test_a_jpeg_of_too_many_scans_is_rejected():
    """The last scan is repeated. Each copy has 23 bytes, but takes as long to decode as a complete image."""
    photo = saved(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    scan = photo[photo.rindex(b"\xff\xda") : -2]
    assert decode(photo[:-2] + 10 * scan + photo[-2:]).size == (64, 64)
    with pytest.raises(ImageError, match="scans"):
        decode(photo[:-2] + 1000 * scan + photo[-2:])


def test_a_large_jpeg_is_decoded_smaller_and_its_pixels_change_by_less_than_half_a_level():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    photo = saved(coarse.resize((4000, 3000), Image.Resampling.BICUBIC), "JPEG", quality=92)
    preset = Preprocess(size=224, resize=256, mean=(0, 0, 0), std=(1, 1, 1))
    small = decode(photo, preset.min_decode_size)
    assert small.size == (1000, 750)
    ours, whole = (preset.pixels(image).astype(float) for image in (small, decode(photo)))
    assert np.abs(ours - whole).mean() < 0.5
    assert decode(saved(RED, "JPEG"), preset.min_decode_size).size == RED.size


def test_a_missing_or_broken_member_is_an_image_error_and_a_broken_zip_a_user_error(tmp_path):
    path = tmp_path / "a.zip"
    write_stored_zip(path, [("here.png", saved(RED))])
    archives = Archives(tmp_path)
    assert decode(archives.read("a.zip", "here.png")).size == (8, 6)
    with pytest.raises(ImageError, match="missing"):
        archives.read("a.zip", "gone.png")
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"idat"))
    with pytest.raises(ImageError, match="damaged archive member"):
        Archives(tmp_path).read("a.zip", "here.png")
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"a\.zip"):
        Archives(tmp_path).read("a.zip", "here.png")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (90, 91), (417, 139)])
def test_preprocessing_equals_torchvisions(size):
    image = Image.effect_noise(size, 80).convert("RGB")
    preset = ImageClassification(crop_size=64, resize_size=73)
    ours = Preprocess(size=64, resize=73, mean=tuple(preset.mean), std=tuple(preset.std))
    got = ours.normalise(torch.from_numpy(ours.pixels(image).copy())[None])[0]
    levels = (got - preset(image)) * torch.tensor(preset.std)[:, None, None] * 255
    assert levels.abs().max() < 1.001
    assert levels.abs().mean() < 0.01


def test_a_size_without_a_resize_takes_the_complete_image():
    image = Image.new("RGB", (100, 20))
    image.putpixel((99, 19), (255, 255, 255))
    pixels = Preprocess(size=20, mean=(0, 0, 0), std=(1, 1, 1)).pixels(image)
    assert pixels.shape == (20, 20, 3)
    assert pixels[-1, -1].max() > 0
