"""Decide whether a caption is true of a scene.

A caption is true if each noun phrase names a different group of the scene, and the relation, place and background are
right. A caption that does not follow the grammar is not true.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import regex

from lib.scenes import grammar
from lib.scenes.world import Group, Scene, position, relation


@dataclass(frozen=True)
class Statement:
    """What a caption claims. A field that is None claims nothing."""

    mentions: tuple[tuple[int, str | None, str, str], ...]  # (count, size, colour, shape) of each noun phrase
    relation: str | None  # where the first object is, seen from the second
    place: str | None
    background: str | None


def _any(words: Iterable[str]) -> str:
    """Return a pattern for any of `words`, longer ones first, so that "left" does not hide "left of"."""
    return "|".join(sorted(words, key=len, reverse=True))


def _words(table: Mapping[Any, tuple[str, ...]]) -> dict[str, Any]:
    """Return the meaning of each word or phrase of a table of `grammar`."""
    return {word: meaning for meaning, words in table.items() for word in words}


_COUNTS, _SIZES = _words(grammar.COUNT_WORDS), _words(grammar.SIZE_WORDS)
_COLOURS, _SINGULARS = _words(grammar.COLOUR_WORDS), _words(grammar.SHAPE_WORDS)
_PLURALS = {grammar.plural(word): shape for word, shape in _SINGULARS.items()}
_RELATIONS, _PLACES = _words(grammar.RELATION_WORDS), _words(grammar.PLACE_WORDS)
_BACKGROUNDS = _words(grammar.BACKGROUND_WORDS)
_INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

_NOUN_PHRASE = rf"\b({_any(_COUNTS)}) (?:({_any(_SIZES)}) )?({_any(_COLOURS)}) ({_any([*_SINGULARS, *_PLURALS])})\b"
_RELATION = f"(?P<relation>{_any([*_RELATIONS, *grammar.NEAR_WORDS])})"
_CORES = (
    f"{_NOUN_PHRASE}(?: (?:{_any(grammar.VERBS)}))?(?: (?P<place>{_any(_PLACES)}))?",
    f"{_NOUN_PHRASE}(?: (?:{_any(grammar.COPULAS)}))? {_RELATION} {_NOUN_PHRASE}",
    f"{_NOUN_PHRASE} with {_NOUN_PHRASE} {_RELATION} (?P<inverse>it)",
    f"{_NOUN_PHRASE}(?: {_NOUN_PHRASE})? and {_NOUN_PHRASE}",
)
_SENTENCE = regex.compile(
    f"(?:(?:{_any(grammar.OPENINGS)}) )?(?:{'|'.join(_CORES)})(?: (?P<background>{_any(_BACKGROUNDS)}))?"
)


def parse_caption(tokens: Sequence[str]) -> Statement | None:
    """Return what a caption of lower-case words claims, or None if it does not follow the grammar."""
    text = " ".join(tokens)
    if not (match := _SENTENCE.fullmatch(text)):
        return None
    mentions = []
    for count, size, colour, word in regex.findall(_NOUN_PHRASE, text):
        shape = (_SINGULARS if _COUNTS[count] == 1 else _PLURALS).get(word)
        if shape is None:  # "two star" or "a stars"
            return None
        mentions.append((_COUNTS[count], _SIZES.get(size), _COLOURS[colour], shape))
    parts = match.groupdict("")
    # "" if there is no relation, or for "next to", which is true of any two objects
    direction = _RELATIONS.get(parts["relation"], "")
    direction = _INVERSE.get(direction) if parts["inverse"] else direction or None
    return Statement(tuple(mentions), direction, _PLACES.get(parts["place"]), _BACKGROUNDS.get(parts["background"]))


def holds(statement: Statement | None, scene: Scene) -> bool:
    """Return whether everything that `statement` claims is true of `scene`."""
    if statement is None or statement.background not in (None, scene.background):
        return False
    return any(_holds_for(statement, groups) for groups in permutations(scene.groups, len(statement.mentions)))


def _holds_for(statement: Statement, groups: tuple[Group, ...]) -> bool:
    """Return whether `statement` is true if its noun phrases refer to `groups`, in this order."""
    for (count, size, colour, shape), group in zip(statement.mentions, groups, strict=True):
        item = group[0]
        if (count, colour, shape) != (len(group), item.colour, item.shape) or size not in (None, item.size):
            return False
    if statement.relation is not None and statement.relation != relation(groups[0][0], groups[1][0]):
        return False
    return statement.place in (None, position(groups[0][0]))


def truth_matrix(statements: Sequence[Statement | None], scenes: Sequence[Scene]) -> np.ndarray:
    """Return whether each statement holds for each scene: bool, (statements, scenes)."""
    return np.array([[holds(statement, scene) for scene in scenes] for statement in statements])


def shuffled_truth(matrix: np.ndarray) -> float:
    """Return the mean of the off-diagonal entries of a truth matrix.

    It is the expected score of a model that ignores its image.
    """
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())
