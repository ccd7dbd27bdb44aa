"""Corpus BLEU (Papineni et al. 2002), as coco-caption counts it.

Matches and lengths are summed over the whole corpus before they are divided. The mean of sentence BLEUs
is another number, and so is NLTK's corpus_bleu for captions shorter than four words.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from lib.scoring.ngrams import ORDERS, Tokens

_TINY, _SMALL = 1e-15, 1e-9  # coco-caption's: they keep an empty corpus from dividing by zero


class BleuReferences:
    """The references of an image, counted once for however many captions are compared with them."""

    def __init__(self, references: Sequence[Tokens]) -> None:
        self._lengths = [len(reference) for reference in references]
        self._most: dict[tuple[Hashable, ...], int] = {}  # how often the reference has an n-gram that has it most often
        for reference in references:
            for ngram, count in _ngrams(reference).items():
                if count > self._most.get(ngram, 0):
                    self._most[ngram] = count

    def statistics(self, hypothesis: Tokens) -> list[int]:
        """What a caption adds to the corpus: ten numbers, matches by order (4), guesses by order (4), length,
        and the length of the reference closest in length (the shorter of two as close)."""
        matches = dict.fromkeys(ORDERS, 0)
        for ngram, count in _ngrams(hypothesis).items():
            matches[len(ngram)] += min(count, self._most.get(ngram, 0))
        length = len(hypothesis)
        guesses = [max(0, length - n + 1) for n in ORDERS]
        closest = min(self._lengths, key=lambda r: (abs(r - length), r))
        return [*matches.values(), *guesses, length, closest]


def bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4, (..., 4), of summed statistics (..., 10)."""
    matches, guesses = statistics[..., :4], statistics[..., 4:8]
    length, reference_length = statistics[..., 8:9], statistics[..., 9:10]
    precision = (matches + _TINY) / (guesses + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.cumprod(precision, axis=-1) ** (1 / np.array(ORDERS)) * brevity


def _ngrams(tokens: Tokens) -> Counter[tuple[Hashable, ...]]:
    """How often each run of one to four tokens occurs."""
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for n in ORDERS:
        counts.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    return counts
