"""Statistics of captions that do not depend on their images: length, diversity, memorised captions, defects."""

from collections.abc import Sequence, Set as AbstractSet
from itertools import pairwise
from statistics import fmean

Tokens = Sequence[str]

# Articles, prepositions, conjunctions and auxiliaries. A caption that ends with one is incomplete: "a man in a".
_FUNCTION_WORDS = """
    a an the of in on at to with from for into onto near and or but while as that
    is are was were am be been being has have
"""
_DANGLING = frozenset(_FUNCTION_WORDS.split())


def caption_statistics(
    captions: Sequence[Tokens], train_captions: AbstractSet[tuple[str, ...]], *, english: bool = True
) -> dict[str, float]:
    """Return statistics of `captions`, at least one. `dangling_end` is only among them if `english` is true.

    `distinct_1` and `distinct_2` (Li et al. 2016) are the numbers of distinct words and of distinct bigrams, divided by
    the number of words. `mean_length` and `distinct_words` are numbers of words. All others are fractions of the
    captions, 0 to 1.
    """
    words = [word for tokens in captions for word in tokens]
    bigrams = {pair for tokens in captions for pair in pairwise(tokens)}
    dangling = fmean(bool(tokens) and tokens[-1] in _DANGLING for tokens in captions)
    return {
        "mean_length": len(words) / len(captions),
        "distinct_words": len(set(words)),
        "distinct_1": len(set(words)) / max(1, len(words)),
        "distinct_2": len(bigrams) / max(1, len(words)),
        "distinct_captions": len(set(map(tuple, captions))) / len(captions),
        "seen_in_training": fmean(tuple(tokens) in train_captions for tokens in captions),
        **({"dangling_end": dangling} if english else {}),
        "repeated_phrase": fmean(repeats_phrase(tokens) for tokens in captions),
    }


def repeats_phrase(tokens: Tokens) -> bool:
    """Return whether a phrase of two or more words is immediately repeated, as in "a dog in a hat in a hat"."""
    return any(
        tokens[start : start + n] == tokens[start + n : start + 2 * n]
        for n in range(2, len(tokens) // 2 + 1)
        for start in range(len(tokens) - 2 * n + 1)
    )
