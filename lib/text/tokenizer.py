"""Words of a caption, as the field's scores count them.

coco-caption (Chen et al. 2015) tokenises with Stanford's PTBTokenizer, in Java, lower-cases, and drops
punctuation. NLTK's Penn Treebank tokenizer needs neither Java nor data files and differs on about one
caption in four thousand (abbreviations such as "d.c.", a trailing "..").
"""

from functools import cache
from typing import Any

# coco-caption's own list. Lower-casing turns a bracket into "-lrb-", which the upper-case entries never
# match, so brackets stay: what the yardstick does, this does too.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


@cache
def _treebank() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer  # slow to import, and needed by few

    return TreebankWordTokenizer()


def tokenize(caption: str) -> list[str]:
    """The lower-case words of `caption`, without punctuation; line breaks count as blanks."""
    text = " ".join(caption.split())
    words = (word.lower() for word in _treebank().tokenize(text, convert_parentheses=True))
    return [word for word in words if word not in PUNCTUATION]
