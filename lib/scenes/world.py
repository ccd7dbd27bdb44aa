"""What a scene can hold, and how one is sampled.

Coordinates are fractions of the picture's side, x to the right and y down, as in the image.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white", "black")
DIAMETERS = {"small": (0.22, 0.26), "large": (0.38, 0.44)}
# A colour that can hardly be seen on a background is not put there.
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "sky": ("blue", "white"),
    "night": ("black",),
    "grass": ("green",),
    "sand": ("yellow",),
    "snow": ("white",),
    "sea": ("blue", "green"),
}
# The kinds of scene: one object, two or three alike, two that differ, three that differ.
KINDS = ("one", "alike", "pair", "trio")

_MARGIN = 0.03  # from an object to the picture's edge
_GAP = 0.1  # between objects
_CLEARLY = 2.0  # how much larger the main offset of a pair is than the other: no borderline relations
_FAR_OFF_CENTRE = 0.15  # from where on a single object is said to be on one side of the picture


@dataclass(frozen=True)
class SceneObject:
    """One object: where its centre is, and how wide it is, in fractions of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    diameter: float
    angle: float  # radians

    def looks_like(self, other: "SceneObject") -> bool:
        return (self.shape, self.colour) == (other.shape, other.colour)


@dataclass(frozen=True)
class Scene:
    """A background, and groups of objects that look alike (most groups have one member)."""

    background: str
    groups: tuple[tuple[SceneObject, ...], ...]

    @property
    def things(self) -> tuple[SceneObject, ...]:
        return tuple(thing for group in self.groups for thing in group)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Scene":
        groups = tuple(tuple(SceneObject(**thing) for thing in group) for group in record["groups"])
        return cls(record["background"], groups)


def relation(a: SceneObject, b: SceneObject) -> str:
    """How `a` lies to `b`: left, right, above or below, by the larger of the two offsets."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def position(thing: SceneObject) -> str:
    """Where in the picture an object is: left, right, top, bottom or middle."""
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if max(abs(dx), abs(dy)) < _FAR_OFF_CENTRE:
        return "middle"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def sample_scene(rng: np.random.Generator, mix: dict[str, float]) -> Scene:
    """Draws a scene; `mix` gives the weight of each of `KINDS`."""
    weights = np.array([mix[kind] for kind in KINDS], dtype=float)
    kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
    background = str(rng.choice(list(BACKGROUNDS)))
    colours = [colour for colour in COLOURS if colour not in BACKGROUNDS[background]]
    while True:  # most layouts fit; one that does not is drawn again, whole
        groups = _sample_groups(rng, kind, colours)
        if _is_clear(kind, groups):
            return Scene(background, groups)


def _sample_groups(rng: np.random.Generator, kind: str, colours: list[str]) -> tuple[tuple[SceneObject, ...], ...]:
    counts = {"one": [1], "alike": [int(rng.integers(2, 4))], "pair": [1, 1], "trio": [1, 1, 1]}[kind]
    groups = []
    for count in counts:
        shape, colour, size = (str(rng.choice(options)) for options in (SHAPES, colours, list(DIAMETERS)))
        group = []
        for _ in range(count):
            diameter = rng.uniform(*DIAMETERS[size])
            low, high = diameter / 2 + _MARGIN, 1 - diameter / 2 - _MARGIN
            x, y = rng.uniform(low, high, size=2)
            group.append(
                SceneObject(shape, colour, size, _short(x), _short(y), _short(diameter), _short(rng.uniform(-0.2, 0.2)))
            )
        groups.append(tuple(group))
    return tuple(groups)


def _short(number: float) -> float:
    return round(float(number), 4)


def _is_clear(kind: str, groups: tuple[tuple[SceneObject, ...], ...]) -> bool:
    """No overlaps, no two groups that a caption could mix up, no relation that could be called either way."""
    things = [thing for group in groups for thing in group]
    for i, a in enumerate(things):
        for b in things[:i]:
            if math.hypot(a.x - b.x, a.y - b.y) < (a.diameter + b.diameter) / 2 + _GAP:
                return False
    firsts = [group[0] for group in groups]
    if any(a.looks_like(b) for i, a in enumerate(firsts) for b in firsts[:i]):
        return False
    if kind == "one":
        return _is_clear_offset(things[0].x - 0.5, things[0].y - 0.5, or_within=_FAR_OFF_CENTRE * 0.5)
    if kind == "pair":
        return _is_clear_offset(things[0].x - things[1].x, things[0].y - things[1].y, or_within=0.0)
    return True


def _is_clear_offset(dx: float, dy: float, or_within: float) -> bool:
    small, large = sorted((abs(dx), abs(dy)))
    return large < or_within or (large > _CLEARLY * small and large > _FAR_OFF_CENTRE * 1.4)
