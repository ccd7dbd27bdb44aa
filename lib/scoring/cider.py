"""CIDEr-D (Vedantam et al. 2015): tf-idf weighted n-gram similarity to the references, as coco-caption computes it.

The idf comes from the references of the images that are scored. Counts are clipped to the reference's,
and a Gaussian (sigma 6) punishes a difference in length, which coco-caption takes as the number of bigrams.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lib.scoring.bleu import ORDERS, ngrams

_SIGMA = 6.0

Tokens = Sequence[str]
_Ngrams = Counter[tuple[str, ...]]
_Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]  # tf-idf by order, norms, length


def cider_d(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]) -> np.ndarray:
    """CIDEr-D of each caption, (I,), 0 to 10; the corpus score is their mean.

    references[i] are the references of image i, hypotheses[i] its caption.
    """
    counted = [[_count(tokens) for tokens in image] for image in references]
    images_with: _Ngrams = Counter()
    for image in counted:
        images_with.update(set().union(*image))
    log_images = math.log(len(references))

    def vector(counts: _Ngrams) -> _Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in ORDERS]
        for ngram, count in counts.items():
            idf = log_images - math.log(max(1, images_with[ngram]))
            weights[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(w * w for w in order.values())) for order in weights]
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    scores = []
    for image, tokens in zip(counted, hypotheses, strict=True):
        hypothesis = vector(_count(tokens))
        similarities = [_similarity(hypothesis, vector(reference)) for reference in image]
        scores.append(10 * sum(similarities) / len(similarities))
    return np.array(scores)


def _count(tokens: Tokens) -> _Ngrams:
    counts: _Ngrams = Counter()
    for n in ORDERS:
        counts.update(ngrams(tokens, n))
    return counts


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, times the length penalty."""
    total = 0.0
    for own, own_norm, other, other_norm in zip(*hypothesis[:2], *reference[:2], strict=True):
        if own_norm and other_norm:
            product = sum(min(w, other[ngram]) * other[ngram] for ngram, w in own.items() if ngram in other)
            total += product / (own_norm * other_norm)
    difference = hypothesis[2] - reference[2]
    return total / len(ORDERS) * math.exp(-(difference**2) / (2 * _SIGMA**2))
