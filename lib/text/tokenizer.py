"""Words of a caption, as the field's scores count them.

coco-caption (Chen et al. 2015) tokenises with Stanford's PTBTokenizer, in Java, lower-cases, and drops punctuation.
`lib.text.lexer` gives the same tokens without Java.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lib.text.lexer import ABBREVIATIONS, CAPITALISED, TAKEN_APART, lex

# coco-caption's own list. Lower-casing turns a bracket into "-lrb-", which the upper-case entries never
# match, so brackets stay: what the yardstick does, this does too.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most captions are nothing but ASCII letters, blanks and commas, with or without a full stop at the end. All that the
# lexer does to one of these is to split off the stop, unless it is an abbreviation's, and to take some words apart.
_PLAIN = re.compile(r"([A-Za-z ,]*)\.?")
_NOT_PLAIN = frozenset(f"{TAKEN_APART} {ABBREVIATIONS} {CAPITALISED}".lower().split())


def tokenize(caption: str) -> list[str]:
    """The lower-case words of `caption`, without punctuation; line breaks count as blanks."""
    text = " ".join(caption.split())
    if plain := _PLAIN.fullmatch(text):
        words = plain[1].lower().replace(",", " ").split()
        if _NOT_PLAIN.isdisjoint(words):
            return words
    return [word for word in lex(text) if word not in PUNCTUATION]


def tokenize_results(results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    """Return the tokens of each caption of a COCO results file, by image id."""
    return {row["image_id"]: tokenize(row["caption"]) for row in results}
