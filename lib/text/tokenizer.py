"""Tokens of a caption as coco-caption counts them (Chen et al. 2015): lower case, without punctuation.

coco-caption runs Stanford's PTBTokenizer in Java. `lib.text.lexer` gives the same tokens without Java.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lib.text.lexer import ABBREVIATIONS, CAPITALISED, SPLIT_WORDS, lex

# coco-caption's list. It never matches a bracket, because lower-casing turned -LRB- into -lrb-; so brackets stay.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most captions consist of ASCII letters, blanks and commas, with or without a full stop at the end. In such a caption
# the lexer only splits off the stop, unless it belongs to an abbreviation, and splits words such as "cannot".
_PLAIN = re.compile(r"([A-Za-z ,]*)\.?")
_NOT_PLAIN = frozenset(f"{SPLIT_WORDS} {ABBREVIATIONS} {CAPITALISED}".lower().split())


def tokenize(caption: str) -> list[str]:
    """Return the lower-case words of `caption`, without punctuation. Line breaks count as blanks."""
    text = " ".join(caption.split())
    if plain := _PLAIN.fullmatch(text):
        words = plain[1].lower().replace(",", " ").split()
        if _NOT_PLAIN.isdisjoint(words):
            return words
    return [word for word in lex(text) if word not in PUNCTUATION]


def tokenize_results(results: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    """Return the tokens of each caption of a COCO results file, by image id."""
    return {row["image_id"]: tokenize(row["caption"]) for row in results}
