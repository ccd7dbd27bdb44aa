"""Words of a caption, as the field's scores count them.

coco-caption (Chen et al. 2015) tokenises with Stanford's PTBTokenizer, in Java, lower-cases, and drops
punctuation. NLTK's Penn Treebank tokenizer needs neither Java nor data files and differs on about one
caption in four thousand (abbreviations such as "d.c.", a trailing "..").
"""

import re
from functools import cache
from typing import Any

# coco-caption's own list. Lower-casing turns a bracket into "-lrb-", which the upper-case entries never
# match, so brackets stay: what the yardstick does, this does too.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Nine of ten captions are nothing but ASCII letters and blanks, with or without a full stop at the end. All that
# Treebank's thirty regular expressions do to one of these is to split off the stop and to take these six words apart.
_PLAIN = re.compile(r"([A-Za-z ]*)\.?")
_TAKEN_APART = frozenset(["cannot", "gimme", "gonna", "gotta", "lemme", "wanna"])


@cache
def _treebank() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer  # slow to import, and needed by few

    return TreebankWordTokenizer()


def tokenize(caption: str) -> list[str]:
    """The lower-case words of `caption`, without punctuation; line breaks count as blanks."""
    text = " ".join(caption.split())
    if plain := _PLAIN.fullmatch(text):
        words = plain[1].lower().split()
        if _TAKEN_APART.isdisjoint(words):
            return words
    return treebank_words(text)


def treebank_words(text: str) -> list[str]:
    """What `tokenize` gives, by way of NLTK alone, for a text whose words stand one blank apart."""
    words = (word.lower() for word in _treebank().tokenize(text, convert_parentheses=True))
    return [word for word in words if word not in PUNCTUATION]
