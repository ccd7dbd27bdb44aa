"""A small English grammar that describes scenes.

    caption    = opening? noun-phrase [place | verb] [background]
               | opening? noun-phrase relation noun-phrase [background]
               | noun-phrase ("is" | "sits" | "stands") relation noun-phrase [background]
               | opening? noun-phrase "and" noun-phrase [background]
               | opening? noun-phrase "with" noun-phrase relation "it" [background]
               | opening? noun-phrase "," noun-phrase "and" noun-phrase [background]
    noun-phrase = count [size] colour shape

Every caption names the colour and shape of each object; size, place, relation and background are included at random.
`truth` parses captions with the same tables.
"""

import numpy as np

from lib.scenes.world import COLOURS, SHAPES, Group, Scene, SceneObject, position, relation

SHAPE_WORDS: dict[str, tuple[str, ...]] = {shape: (shape,) for shape in SHAPES}
SHAPE_WORDS |= {"circle": ("circle", "disc"), "square": ("square", "box"), "ring": ("ring", "hoop")}
COLOUR_WORDS = {colour: (colour,) for colour in COLOURS} | {"purple": ("purple", "violet")}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
COUNT_WORDS = {1: ("a",), 2: ("two", "a pair of"), 3: ("three",)}
RELATION_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
NEAR_WORDS = ("next to", "beside")  # true of any two objects
PLACE_WORDS = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the center"),
}
BACKGROUND_WORDS = {
    "sky": ("in the sky", "in a cloudy sky", "in front of a bright sky"),
    "night": ("at night", "in the dark", "in the night sky"),
    "grass": ("on the grass", "in a meadow", "on a lawn"),
    "sand": ("on the sand", "on a sandy beach", "in the desert"),
    "snow": ("in the snow", "on a snowy field"),
    "sea": ("in the sea", "on the water"),
}
OPENINGS = ("there is", "there are", "a picture of", "we see")
VERBS = ("floating", "standing", "lying")
COPULAS = ("is", "sits", "stands")


def plural(shape_word: str) -> str:
    return "boxes" if shape_word == "box" else f"{shape_word}s"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Return one true caption of `scene`, with a capital letter and a full stop."""
    phrases = [_noun_phrase(group, rng) for group in scene.groups]
    opening = _opening(phrases[0], rng) if rng.random() < 0.3 else ""
    background = _pick(rng, BACKGROUND_WORDS[scene.background]) if rng.random() < 0.5 else ""
    if len(phrases) == 1:
        core = _one_group(phrases[0], scene.groups[0], bool(background), rng)
    elif len(phrases) == 2:
        order = list(rng.permutation(2))
        a, b = (scene.groups[i][0] for i in order)
        core, takes_opening = _two_groups([phrases[i] for i in order], a, b, rng)
        opening = opening if takes_opening else ""
    else:
        core = "{}, {} and {}".format(*(phrases[i] for i in rng.permutation(3)))
    sentence = " ".join(filter(None, (opening, core, background)))
    return sentence[0].upper() + sentence[1:] + "."


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _opening(phrase: str, rng: np.random.Generator) -> str:
    excluded = "there is" if phrase.startswith(("two ", "three ")) else "there are"
    return _pick(rng, tuple(words for words in OPENINGS if words != excluded))


def _noun_phrase(group: Group, rng: np.random.Generator) -> str:
    item = group[0]
    size = _pick(rng, SIZE_WORDS[item.size]) if rng.random() < 0.4 else ""
    shape = _pick(rng, SHAPE_WORDS[item.shape])
    count, colour = _pick(rng, COUNT_WORDS[len(group)]), _pick(rng, COLOUR_WORDS[item.colour])
    return " ".join(filter(None, (count, size, colour, shape if len(group) == 1 else plural(shape))))


def _one_group(phrase: str, group: Group, has_background: bool, rng: np.random.Generator) -> str:
    if len(group) == 1 and rng.random() < 0.4:
        return f"{phrase} {_pick(rng, PLACE_WORDS[position(group[0])])}"
    if has_background and rng.random() < 0.3:
        return f"{phrase} {_pick(rng, VERBS)}"
    return phrase


def _two_groups(phrases: list[str], a: SceneObject, b: SceneObject, rng: np.random.Generator) -> tuple[str, bool]:
    """Return the sentence, and whether an opening such as "there is" may precede it."""
    form = rng.choice(["relation", "copula", "near", "and", "with"], p=[0.35, 0.2, 0.1, 0.2, 0.15])
    if form == "and":
        return f"{phrases[0]} and {phrases[1]}", True
    if form == "with":
        return f"{phrases[0]} with {phrases[1]} {_pick(rng, RELATION_WORDS[relation(b, a)])} it", True
    words = _pick(rng, NEAR_WORDS if form == "near" else RELATION_WORDS[relation(a, b)])
    if form == "copula":
        return f"{phrases[0]} {_pick(rng, COPULAS)} {words} {phrases[1]}", False
    return f"{phrases[0]} {words} {phrases[1]}", True
