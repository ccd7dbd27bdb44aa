"""Corpus BLEU (Papineni et al. 2002), as coco-caption computes it.

Matches and lengths are summed over the corpus before the division. The mean of sentence BLEUs is another number, and
so is NLTK's corpus_bleu if there are captions of fewer than four tokens.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

import numpy as np

ORDERS = (1, 2, 3, 4)

Tokens = Sequence[Hashable]

_TINY, _SMALL = 1e-15, 1e-9  # coco-caption's; they avoid a division by zero


class BleuReferences:
    """The n-gram counts of an image's references, for any number of hypotheses."""

    def __init__(self, references: Sequence[Tokens]) -> None:
        self._lengths = [len(reference) for reference in references]
        self._max_counts: Counter[tuple[Hashable, ...]] = Counter()  # the largest count in any one reference
        for reference in references:
            self._max_counts |= _ngrams(reference)

    def statistics(self, hypothesis: Tokens) -> list[int]:
        """Return what a hypothesis adds to the corpus, ten numbers: matches by order (4), n-grams by order (4), its
        length, and the closest reference length (the shorter one of a tie)."""
        matches = dict.fromkeys(ORDERS, 0)
        for ngram, count in _ngrams(hypothesis).items():
            matches[len(ngram)] += min(count, self._max_counts[ngram])
        length = len(hypothesis)
        ngrams = [max(0, length - n + 1) for n in ORDERS]
        closest = min(self._lengths, key=lambda reference: (abs(reference - length), reference))
        return [*matches.values(), *ngrams, length, closest]


def bleu(statistics: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to BLEU-4, (..., 4), from summed statistics (..., 10)."""
    matches, ngrams = statistics[..., :4], statistics[..., 4:8]
    length, reference_length = statistics[..., 8:9], statistics[..., 9:10]
    precision = (matches + _TINY) / (ngrams + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.cumprod(precision, axis=-1) ** (1 / np.array(ORDERS)) * brevity


def _ngrams(tokens: Tokens) -> Counter[tuple[Hashable, ...]]:
    """Count the n-grams of one to four tokens."""
    return Counter(chain.from_iterable(zip(*(tokens[i:] for i in range(n)), strict=False) for n in ORDERS))
