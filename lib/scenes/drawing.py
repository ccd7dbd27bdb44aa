"""Draw a scene: textured background, shadows, shaded shapes with a darker rim; anti-aliased by supersampling."""

import io
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lib.scenes.world import Scene, SceneObject

_SUPERSAMPLING = 2
_JPEG_QUALITY = 92
_SHADOW_OFFSET, _SHADOW_BLUR = 0.018, 0.012  # fractions of the image's side

_Colour = tuple[int, int, int]
_OBJECT_COLOURS: dict[str, _Colour] = {
    "red": (214, 48, 44),
    "yellow": (250, 214, 58),
    "green": (46, 158, 74),
    "blue": (44, 92, 206),
    "purple": (142, 68, 173),
    "white": (248, 248, 246),
    "black": (38, 38, 42),
}
# Colour at the top, colour at the bottom, standard deviation of the noise (0 to 255), number of details, their colour.
_BACKGROUNDS: dict[str, tuple[_Colour, _Colour, int, int, _Colour]] = {
    "sky": ((126, 186, 236), (214, 234, 248), 2, 4, (240, 246, 252)),
    "night": ((16, 20, 54), (56, 50, 104), 2, 30, (196, 196, 226)),
    "grass": ((150, 206, 108), (96, 168, 74), 2, 70, (80, 148, 62)),
    "sand": ((238, 216, 172), (214, 182, 128), 7, 8, (202, 170, 118)),
    "snow": ((222, 230, 240), (248, 250, 252), 3, 8, (204, 214, 230)),
    "sea": ((112, 206, 208), (30, 132, 158), 2, 14, (150, 222, 222)),
}


def render(scene: Scene, size: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG of size x size pixels. `rng` draws details that no caption mentions, such as clouds and waves."""
    side = size * _SUPERSAMPLING
    image = _background(scene.background, side, rng)
    outlines, masks = [_outline(item, side) for item in scene.objects], []
    shadow, offset = Image.new("L", (side, side)), round(_SHADOW_OFFSET * side)
    for corners, hole in outlines:
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        if hole:
            ImageDraw.Draw(mask).ellipse(hole, fill=0)
        shadow.paste(110, (offset, offset), mask)
        masks.append(mask)
    image.paste((0, 0, 0), mask=shadow.filter(ImageFilter.BoxBlur(_SHADOW_BLUR * side)))
    draw, width = ImageDraw.Draw(image), max(1, side // 96)
    for item, (corners, hole), mask in zip(scene.objects, outlines, masks, strict=True):
        image.paste(_shaded(item.colour, side), mask=mask)
        rim = tuple(int(channel * 0.55) for channel in _OBJECT_COLOURS[item.colour])
        draw.line([*corners, corners[0]], fill=rim, width=width, joint="curve")
        if hole:
            draw.ellipse(hole, outline=rim, width=width)
    buffer = io.BytesIO()
    image.resize((size, size), Image.Resampling.BOX).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _background(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    top, bottom, noise_std, num_details, colour = _BACKGROUNDS[name]
    first, last = np.array([top, bottom], dtype=np.float32)
    gradient = first + (last - first) * np.linspace(0, 1, side, dtype=np.float32)[:, None]  # (side, 3)
    noise = rng.standard_normal((side // 2, side // 2), dtype=np.float32) * noise_std
    pixels = gradient[::2, None] + noise[..., None]  # (side / 2, side / 2, 3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for _ in range(num_details):
        x, y = rng.uniform(0, side, size=2)
        unit = side * rng.uniform(0.6, 1.2) / 64
        if name == "sky":
            for dx, dy, r in ((0, 0, 4), (5, 1, 3.4), (-5, 1, 3)):
                box = [x + (dx - r) * unit, y + (dy - r / 2) * unit, x + (dx + r) * unit, y + (dy + r / 2) * unit]
                draw.ellipse(box, fill=colour)
        elif name == "night":
            draw.ellipse([x, y, x + unit / 2, y + unit / 2], fill=colour)
        elif name == "grass":
            draw.line([x, y, x + unit * rng.uniform(-1, 1), y - 3 * unit], fill=colour, width=side // 128)
        else:
            draw.arc([x - 5 * unit, y, x + 5 * unit, y + 3 * unit], 200, 340, fill=colour, width=side // 100)
    return image


@cache
def _shaded(colour: str, side: int) -> Image.Image:
    """Return an image of one colour, lit from above."""
    light = np.linspace(1.12, 0.86, side, dtype=np.float32)[:, None, None]
    pixels = np.clip(np.array(_OBJECT_COLOURS[colour], dtype=np.float32) * light, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(pixels, side, axis=1))


def _outline(item: SceneObject, side: int) -> tuple[list[tuple[float, float]], list[float] | None]:
    """Return the corners of an object, and the bounding box of a ring's hole, in pixels."""
    corners = _corners(item.shape) * (item.diameter / 2)  # (P, 2)
    cos, sin = math.cos(item.angle), math.sin(item.angle)
    pixels = (corners @ np.array([[cos, sin], [-sin, cos]]) + (item.x, item.y)) * side
    r = item.diameter * 0.28
    hole = [side * (item.x - r), side * (item.y - r), side * (item.x + r), side * (item.y + r)]
    return [(x, y) for x, y in pixels.tolist()], hole if item.shape == "ring" else None


@cache
def _corners(shape: str) -> np.ndarray:
    """Return the corners of a shape inside the unit circle, (P, 2)."""
    if shape == "heart":  # the classic curve, scaled to fit
        turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return np.stack([x, y], axis=1) / 17
    radii, first = {
        "square": ([1.0] * 4, np.pi / 4),
        "triangle": ([1.0] * 3, -np.pi / 2),
        "star": ([1.0, 0.45] * 5, -np.pi / 2),
    }.get(shape, ([1.0] * 60, 0.0))  # circle and ring
    angles = first + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
