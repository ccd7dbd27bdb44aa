"""Is a caption true of a scene? Reads it back with the tables of `language`, and holds it against the truth.

A caption is true when all of it can be read and every statement in it holds: each noun phrase names a
group of the scene of its own (count, size where told, colour, shape), and the place, relation and
background hold. What cannot be read is not true.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lib.scenes import grammar as language
from lib.scenes.world import Scene, SceneObject, position, relation


@dataclass(frozen=True)
class _Mention:
    count: int
    size: str | None
    colour: str
    shape: str

    def fits(self, group: tuple[SceneObject, ...]) -> bool:
        thing = group[0]
        return (
            (self.count, self.colour, self.shape) == (len(group), thing.colour, thing.shape)
            and self.size in (None, thing.size)
        )  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """What a caption claims. `relation` is of the first mention to the second; None claims nothing."""

    mentions: tuple[_Mention, ...]
    relation: str | None
    place: str | None
    background: str | None


def _meanings(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: meaning for meaning, words in table.items() for word in words}


def _any(words: Iterable[str]) -> str:
    """A pattern for any of `words`, the longer first, so that "left" does not hide "left of"."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COUNTS = {word: count for count, words in language.COUNT_WORDS.items() for word in words} | {"an": 1}
_SIZES, _COLOURS = _meanings(language.SIZE_WORDS), _meanings(language.COLOUR_WORDS)
_SINGULAR = _meanings(language.SHAPE_WORDS)
_PLURAL = {language.plural(word): shape for word, shape in _SINGULAR.items()}
_RELATIONS, _PLACES = _meanings(language.RELATION_WORDS), _meanings(language.PLACE_WORDS)
_BACKGROUNDS = _meanings(language.BACKGROUND_WORDS)
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _noun_phrase(i: int) -> str:
    shapes = _any([*_SINGULAR, *_PLURAL])
    return (
        f"(?P<count{i}>{_any(_COUNTS)}) (?:(?P<size{i}>{_any(_SIZES)}) )?"
        f"(?P<colour{i}>{_any(_COLOURS)}) (?P<shape{i}>{shapes})"
    )


def _sentence(core: str) -> re.Pattern[str]:
    return re.compile(f"(?:(?:{_any(language.OPENINGS)}) )?{core}(?: (?P<background>{_any(_BACKGROUNDS)}))?")


_RELATION = f"(?P<relation>{_any([*_RELATIONS, *language.NEAR_WORDS])})"
_SENTENCES = tuple(
    _sentence(core)
    for core in (
        f"{_noun_phrase(0)}(?: (?:{_any(language.VERBS)}))?(?: (?P<place>{_any(_PLACES)}))?",
        f"{_noun_phrase(0)}(?: (?:{_any(language.COPULAS)}))? {_RELATION} {_noun_phrase(1)}",
        f"{_noun_phrase(0)} with {_noun_phrase(1)} {_RELATION} (?P<inverse>it)",
        f"{_noun_phrase(0)} and {_noun_phrase(1)}",
        f"{_noun_phrase(0)} {_noun_phrase(1)} and {_noun_phrase(2)}",
    )
)


def parse_caption(tokens: Sequence[str]) -> Statement | None:
    """What the caption claims, or None where it cannot be read. `tokens` are lower-case, without punctuation."""
    text = " ".join(tokens)
    for sentence in _SENTENCES:
        if match := sentence.fullmatch(text):
            return _statement(match.groupdict())
    return None


def _statement(parts: dict[str, str | None]) -> Statement | None:
    mentions = []
    for i in range(3):
        shape, colour, count = parts.get(f"shape{i}"), parts.get(f"colour{i}"), parts.get(f"count{i}")
        if shape is None or colour is None or count is None:
            break
        meaning = (_SINGULAR if _COUNTS[count] == 1 else _PLURAL).get(shape)
        if meaning is None:  # "two star", "a stars"
            return None
        size = parts[f"size{i}"]
        mentions.append(_Mention(_COUNTS[count], size and _SIZES[size], _COLOURS[colour], meaning))
    words = parts.get("relation")
    told = _RELATIONS.get(words) if words else None  # None for "next to", true of any two
    if told and parts.get("inverse"):
        told = _OPPOSITE[told]
    place, background = parts.get("place"), parts.get("background")
    return Statement(tuple(mentions), told, place and _PLACES[place], background and _BACKGROUNDS[background])


def holds(statement: Statement | None, scene: Scene) -> bool:
    """Whether everything that `statement` claims is so in `scene`."""
    if statement is None or statement.background not in (None, scene.background):
        return False
    return any(_holds_of(statement, groups) for groups in permutations(scene.groups, len(statement.mentions)))


def _holds_of(statement: Statement, groups: tuple[tuple[SceneObject, ...], ...]) -> bool:
    if not all(mention.fits(group) for mention, group in zip(statement.mentions, groups, strict=True)):
        return False
    if statement.place and statement.place != position(groups[0][0]):
        return False
    return not statement.relation or statement.relation == relation(groups[0][0], groups[1][0])


def truth_matrix(statements: Sequence[Statement | None], scenes: Sequence[Scene]) -> np.ndarray:
    """Whether each statement holds of each scene, (statements, scenes)."""
    return np.array([[holds(statement, scene) for scene in scenes] for statement in statements])


def shuffled_truth(held: np.ndarray) -> float:
    """The share of captions that are true of another picture, over all pairs of two different ones.

    held[i, j] says if caption i is true of picture j.

    Decoding treats each image by itself, so giving the model shuffled features gives shuffled captions:
    this is the share of true captions to expect when features are shuffled. Near that of each picture's own
    captions, they would say nothing of their picture.
    """
    return float(held[~np.eye(len(held), dtype=bool)].mean())
