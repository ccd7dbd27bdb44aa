"""What captions are like, whatever their pictures show: how long, how varied, how much of them learned by heart."""

from collections.abc import Sequence, Set as AbstractSet
from itertools import pairwise

Tokens = Sequence[str]

# Articles, prepositions, conjunctions and auxiliaries after which a sentence is not over: "a man in a".
_NEVER_LAST = """
    a an the of in on at to with from for into onto near and or but while as that
    is are was were am be been being has have
"""
_DANGLING = frozenset(_NEVER_LAST.split())


def caption_statistics(captions: Sequence[Tokens], seen: AbstractSet[tuple[str, ...]]) -> dict[str, float]:
    """Statistics of at least one caption; `seen` are those of the training set.

    distinct_1 and distinct_2 (Li et al. 2016) are the different words, and pairs of words, over all words; what
    is not a number of words is a share, 0 to 1.
    """
    words = [word for tokens in captions for word in tokens]
    pairs = [pair for tokens in captions for pair in pairwise(tokens)]
    return {
        "mean_length": len(words) / len(captions),
        "distinct_words": len(set(words)),
        "distinct_1": len(set(words)) / max(1, len(words)),
        "distinct_2": len(set(pairs)) / max(1, len(words)),
        "distinct_captions": len(set(map(tuple, captions))) / len(captions),
        "seen_in_training": _share([tuple(tokens) in seen for tokens in captions]),
        "dangling_end": _share([bool(tokens) and tokens[-1] in _DANGLING for tokens in captions]),
        "repeated_phrase": _share([repeats(tokens) for tokens in captions]),
    }


def repeats(tokens: Tokens) -> bool:
    """Whether a phrase of two words or more is said twice on end: "a dog in a hat in a hat"."""
    return any(
        tokens[start : start + n] == tokens[start + n : start + 2 * n]
        for n in range(2, len(tokens) // 2 + 1)
        for start in range(len(tokens) - 2 * n + 1)
    )


def _share(holds: list[bool]) -> float:
    return sum(holds) / len(holds)
