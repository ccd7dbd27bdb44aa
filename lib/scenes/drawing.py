"""Draws a scene: textured background, shadows, shaded shapes with a darker rim; anti-aliased by supersampling."""

import io
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lib.scenes.world import Scene, SceneObject

_SUPERSAMPLING = 2
_JPEG_QUALITY = 92
_SHADOW_OFFSET, _SHADOW_BLUR = 0.018, 0.012  # fractions of the picture's side

_Colour = tuple[int, int, int]
_PAINT: dict[str, _Colour] = {
    "red": (214, 48, 44),
    "yellow": (250, 214, 58),
    "green": (46, 158, 74),
    "blue": (44, 92, 206),
    "purple": (142, 68, 173),
    "white": (248, 248, 246),
    "black": (38, 38, 42),
}
# Colours at the top and at the bottom of each background.
_GROUND: dict[str, tuple[_Colour, _Colour]] = {
    "sky": ((126, 186, 236), (214, 234, 248)),
    "night": ((16, 20, 54), (56, 50, 104)),
    "grass": ((150, 206, 108), (96, 168, 74)),
    "sand": ((238, 216, 172), (214, 182, 128)),
    "snow": ((222, 230, 240), (248, 250, 252)),
    "sea": ((112, 206, 208), (30, 132, 158)),
}


def render(scene: Scene, size: int, rng: np.random.Generator) -> bytes:
    """The scene as a JPEG of `size` x `size` pixels. `rng` decides what captions never speak of: clouds, waves."""
    side = size * _SUPERSAMPLING
    picture = _background(scene.background, side, rng)
    masks = [_mask(thing, side) for thing in scene.things]
    shadow, drop = Image.new("L", (side, side)), round(_SHADOW_OFFSET * side)
    for mask in masks:
        shadow.paste(110, (drop, drop), mask)
    picture.paste((0, 0, 0), mask=shadow.filter(ImageFilter.BoxBlur(_SHADOW_BLUR * side)))
    for thing, mask in zip(scene.things, masks, strict=True):
        picture.paste(_shaded(thing.colour, side), mask=mask)
        _draw_rim(picture, thing)
    buffer = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BOX).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _background(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    top, bottom = (np.array(colour, dtype=np.float32) for colour in _GROUND[name])
    gradient = top + (bottom - top) * np.linspace(0, 1, side, dtype=np.float32)[:, None]  # (side, 3)
    grain = {"sand": 7, "snow": 3}.get(name, 2)  # standard deviation, of 255
    speckle = rng.standard_normal((side // 2, side // 2), dtype=np.float32) * grain
    pixels = gradient[::2, None] + speckle[..., None]  # (side / 2, side / 2, 3)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for _ in range({"sky": 4, "night": 30, "grass": 70, "sand": 8, "snow": 8, "sea": 14}[name]):
        x, y = rng.uniform(0, side, size=2)
        unit = side * rng.uniform(0.6, 1.2) / 64
        if name == "sky":
            for dx, dy, r in ((0, 0, 4), (5, 1, 3.4), (-5, 1, 3)):
                box = [x + (dx - r) * unit, y + (dy - r / 2) * unit, x + (dx + r) * unit, y + (dy + r / 2) * unit]
                draw.ellipse(box, fill=(240, 246, 252))
        elif name == "night":
            draw.ellipse([x, y, x + unit / 2, y + unit / 2], fill=(196, 196, 226))
        elif name == "grass":
            draw.line([x, y, x + unit * rng.uniform(-1, 1), y - 3 * unit], fill=(80, 148, 62), width=side // 128)
        else:
            tint = {"sand": (202, 170, 118), "snow": (204, 214, 230), "sea": (150, 222, 222)}[name]
            draw.arc([x - 5 * unit, y, x + 5 * unit, y + 3 * unit], 200, 340, fill=tint, width=side // 100)
    return picture


def _mask(thing: SceneObject, side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    draw.polygon(_outline(thing, side), fill=255)
    if thing.shape == "ring":
        draw.ellipse(_hole(thing, side), fill=0)
    return mask


@cache
def _shaded(colour: str, side: int) -> Image.Image:
    """The paint of a colour, lit from above."""
    light = np.linspace(1.12, 0.86, side, dtype=np.float32)[:, None, None]
    pixels = np.clip(np.array(_PAINT[colour], dtype=np.float32) * light, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(pixels, side, axis=1))


def _draw_rim(picture: Image.Image, thing: SceneObject) -> None:
    side = picture.width
    rim = tuple(int(channel * 0.55) for channel in _PAINT[thing.colour])
    draw, width = ImageDraw.Draw(picture), max(1, side // 96)
    outline = _outline(thing, side)
    draw.line([*outline, outline[0]], fill=rim, width=width, joint="curve")
    if thing.shape == "ring":
        draw.ellipse(_hole(thing, side), outline=rim, width=width)


def _hole(thing: SceneObject, side: int) -> list[float]:
    """The box around a ring's hole, in pixels."""
    r = thing.diameter * 0.28
    return [side * (thing.x - r), side * (thing.y - r), side * (thing.x + r), side * (thing.y + r)]


def _outline(thing: SceneObject, side: int) -> list[tuple[float, float]]:
    """The shape's corners in pixels, turned by its angle."""
    points = _unit_outline(thing.shape) * (thing.diameter / 2)  # (P, 2)
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    placed = (points @ np.array([[cos, sin], [-sin, cos]]) + (thing.x, thing.y)) * side
    return [(float(x), float(y)) for x, y in placed]


@cache
def _unit_outline(shape: str) -> np.ndarray:
    """The shape's corners, (P, 2), inside the circle of radius 1 around the origin."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    if shape in ("circle", "ring"):
        return np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if shape == "heart":  # the classic curve, scaled to fit
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return np.stack([x, y], axis=1) / 17
    if shape == "cross":
        arm, end = 0.34, 0.94
        top = np.array([(-arm, -end), (arm, -end), (arm, -arm)])
        quarter_turn = np.array([[0, 1], [-1, 0]])
        return np.concatenate([top @ np.linalg.matrix_power(quarter_turn, i) for i in range(4)])
    radii, first = {
        "square": ([1.0] * 4, np.pi / 4),
        "diamond": ([1.0, 0.66] * 2, -np.pi / 2),
        "triangle": ([1.0] * 3, -np.pi / 2),
        "star": ([1.0, 0.45] * 5, -np.pi / 2),
    }[shape]
    angles = first + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
