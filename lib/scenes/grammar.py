"""A small English grammar that describes scenes.

    caption     = [opening] core [background]
    core        = noun-phrase [place | verb]
                | noun-phrase ["is" | "sits" | "stands"] relation noun-phrase
                | noun-phrase "with" noun-phrase relation "it"
                | noun-phrase ["," noun-phrase] "and" noun-phrase
    noun-phrase = count [size] colour shape

Every caption names the colour and shape of each object; size, place, relation and background are included at random.
`truth` parses captions with the same tables.
"""

import numpy as np

from lib.scenes.world import COLOURS, SHAPES, Group, Scene, position, relation

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
NEAR_WORDS = ("next to", "beside")  # these hold for any two objects
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
    excluded = "there is" if phrases[0].startswith(("two ", "three ")) else "there are"
    opening = _pick(rng, tuple(words for words in OPENINGS if words != excluded)) if rng.random() < 0.3 else ""
    background = _pick(rng, BACKGROUND_WORDS[scene.background]) if rng.random() < 0.5 else ""
    if len(phrases) == 1:
        core = phrases[0]
        if len(scene.objects) == 1 and rng.random() < 0.4:
            core += f" {_pick(rng, PLACE_WORDS[position(scene.objects[0])])}"
        elif background and rng.random() < 0.3:
            core += f" {_pick(rng, VERBS)}"
    elif len(phrases) == 2:
        (first, a), (second, b) = ((phrases[i], scene.objects[i]) for i in rng.permutation(2).tolist())
        form = rng.choice(["relation", "copula", "near", "and", "with"], p=[0.35, 0.2, 0.1, 0.2, 0.15])
        if form == "and":
            core = f"{first} and {second}"
        elif form == "with":
            core = f"{first} with {second} {_pick(rng, RELATION_WORDS[relation(b, a)])} it"
        else:
            words = _pick(rng, NEAR_WORDS if form == "near" else RELATION_WORDS[relation(a, b)])
            if form == "copula":
                opening, words = "", f"{_pick(rng, COPULAS)} {words}"
            core = f"{first} {words} {second}"
    else:
        core = "{}, {} and {}".format(*(phrases[i] for i in rng.permutation(3)))
    sentence = " ".join(filter(None, (opening, core, background)))
    return sentence[0].upper() + sentence[1:] + "."


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _noun_phrase(group: Group, rng: np.random.Generator) -> str:
    item = group[0]
    size = _pick(rng, SIZE_WORDS[item.size]) if rng.random() < 0.4 else ""
    shape = _pick(rng, SHAPE_WORDS[item.shape])
    count, colour = _pick(rng, COUNT_WORDS[len(group)]), _pick(rng, COLOUR_WORDS[item.colour])
    return " ".join(filter(None, (count, size, colour, shape if len(group) == 1 else plural(shape))))
