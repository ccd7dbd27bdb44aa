"""Corpus BLEU (Papineni et al. 2002), as coco-caption counts it.

Matches and lengths are summed over the whole corpus before they are divided. The mean of sentence BLEUs
is another number, and so is NLTK's corpus_bleu for captions shorter than four words.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDERS = (1, 2, 3, 4)
_TINY, _SMALL = 1e-15, 1e-9  # coco-caption's: they keep an empty corpus from dividing by zero

Tokens = Sequence[str]


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """How often each run of `n` tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def bleu_statistics(references: Sequence[Tokens], hypothesis: Tokens) -> np.ndarray:
    """What one caption adds to the corpus: (10,) of matches by order (4), guesses by order (4), length,
    and the length of the reference closest in length (the shorter of two as close)."""
    matches, guesses = [], []
    for n in ORDERS:
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= ngrams(reference, n)
        matches.append((ngrams(hypothesis, n) & most).total())
        guesses.append(max(0, len(hypothesis) - n + 1))
    length = len(hypothesis)
    closest = min((len(reference) for reference in references), key=lambda r: (abs(r - length), r))
    return np.array([*matches, *guesses, length, closest], dtype=np.float64)


def bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4, (..., 4), of summed statistics (..., 10)."""
    matches, guesses = statistics[..., :4], statistics[..., 4:8]
    length, reference_length = statistics[..., 8:9], statistics[..., 9:10]
    precision = (matches + _TINY) / (guesses + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.cumprod(precision, axis=-1) ** (1 / np.array(ORDERS)) * brevity
