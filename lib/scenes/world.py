"""Objects and scenes, and how a scene is sampled.

Coordinates are fractions of the image's side: x grows to the right, y grows downwards.
"""

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white", "black")
DIAMETERS = {"small": (0.22, 0.26), "large": (0.38, 0.44)}
# For each background, the colours that are hardly visible on it. No object on this background has such a colour.
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "sky": ("blue", "white"),
    "night": ("black",),
    "grass": ("green",),
    "sand": ("yellow",),
    "snow": ("white",),
    "sea": ("blue", "green"),
}
# one: one object; alike: two or three that look alike; pair: two that differ; trio: three that differ.
KINDS = ("one", "alike", "pair", "trio")

_MARGIN = 0.03  # minimum distance between an object and the image's edge
_GAP = 0.1  # minimum distance between objects
_OFF_CENTRE = 0.15  # an object with both offsets below this is "in the middle"
_MIN_OFFSET = _OFF_CENTRE * 1.4  # a relation or position is clear if its offset is above this ...
_MIN_RATIO = 2.0  # ... and above this multiple of the other offset


@dataclass(frozen=True)
class SceneObject:
    shape: str
    colour: str
    size: str
    x: float  # x and y of the centre
    y: float
    diameter: float
    angle: float  # radians


Group = tuple[SceneObject, ...]  # objects that look alike; most groups have only one object


@dataclass(frozen=True)
class Scene:
    background: str
    groups: tuple[Group, ...]

    @property
    def objects(self) -> Group:
        return tuple(item for group in self.groups for item in group)


def relation(a: SceneObject, b: SceneObject) -> str:
    """Return where `a` is, seen from `b`: left, right, above or below, by the larger offset."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def position(item: SceneObject) -> str:
    """Return where an object is in the image: left, right, top, bottom or middle."""
    if max(abs(item.x - 0.5), abs(item.y - 0.5)) < _OFF_CENTRE:
        return "middle"
    direction = relation(item, replace(item, x=0.5, y=0.5))
    return {"above": "top", "below": "bottom"}.get(direction, direction)


def sample_scene(rng: np.random.Generator, mix: dict[str, float]) -> Scene:
    """Draw a scene; `mix` has the weight of each of `KINDS`."""
    weights = np.array([mix[kind] for kind in KINDS], dtype=float)
    kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
    background = str(rng.choice(list(BACKGROUNDS)))
    colours = [colour for colour in COLOURS if colour not in BACKGROUNDS[background]]
    while True:  # repeats rarely, because most layouts are clear
        groups = _sample_groups(rng, kind, colours)
        if _is_clear(kind, groups):
            return Scene(background, groups)


def _sample_groups(rng: np.random.Generator, kind: str, colours: list[str]) -> tuple[Group, ...]:
    counts = {"one": [1], "alike": [int(rng.integers(2, 4))], "pair": [1, 1], "trio": [1, 1, 1]}[kind]
    groups = []
    for count in counts:
        shape, colour, size = (str(rng.choice(options)) for options in (SHAPES, colours, list(DIAMETERS)))
        group = []
        for _ in range(count):
            diameter = rng.uniform(*DIAMETERS[size])
            x, y = rng.uniform(diameter / 2 + _MARGIN, 1 - diameter / 2 - _MARGIN, size=2)
            numbers = (round(float(number), 4) for number in (x, y, diameter, rng.uniform(-0.2, 0.2)))
            group.append(SceneObject(shape, colour, size, *numbers))
        groups.append(tuple(group))
    return tuple(groups)


def _is_clear(kind: str, groups: tuple[Group, ...]) -> bool:
    """Return whether no objects touch, no two groups look alike and no relation or position is ambiguous."""
    objects = [item for group in groups for item in group]
    pairs = combinations(objects, 2)
    if any(math.hypot(a.x - b.x, a.y - b.y) < (a.diameter + b.diameter) / 2 + _GAP for a, b in pairs):
        return False
    if len({(group[0].shape, group[0].colour) for group in groups}) < len(groups):
        return False
    if kind in ("alike", "trio"):
        return True  # captions of these kinds mention neither position nor relation
    x, y = (objects[1].x, objects[1].y) if kind == "pair" else (0.5, 0.5)
    small, large = sorted((abs(objects[0].x - x), abs(objects[0].y - y)))
    in_middle = kind == "one" and large < _OFF_CENTRE * 0.5
    return in_middle or (large > _MIN_RATIO * small and large > _MIN_OFFSET)
