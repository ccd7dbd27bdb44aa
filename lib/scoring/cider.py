"""CIDEr: tf-idf weighted n-gram similarity to the references. The idf is computed from the references only.

CIDEr-D (Vedantam et al. 2015) is computed as in coco-caption: n-grams of one to four tokens, without stemming. The
counts of the hypothesis are clipped to those of the reference. A Gaussian (sigma 6) penalises a difference in length.
As in coco-caption, the length is the number of bigrams.

CIDEr-R (Oliveira dos Santos et al. 2021) is for captions of any length. It divides the difference in length by the
length of the reference, so that a few words matter less in long captions. It also penalises repeated words.
"""

from collections.abc import Sequence

import numpy as np

from lib.scoring.ngrams import (
    ORDERS,
    Matches,
    NgramCounts,
    ReferenceNgrams,
    Tokens,
    find,
    orders_of,
    sum_by_order,
)

_SIGMA = 6.0  # for CIDEr-D
_REPETITION_WEIGHT, _LENGTH_WEIGHT = 0.8, 0.2  # for CIDEr-R


class CiderD:
    """Computes CIDEr-D, and also CIDEr-R, of hypotheses against fixed references.

    `references[i]` has the references of image i, at least one. Tokens may be words or ids. The tf-idf vectors of the
    references are computed once, because self-critical training and consensus reranking score many hypotheses. CIDEr-R
    uses the same vectors and differs only in the weight of each pair of a hypothesis and a reference.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        self.ngrams = ReferenceNgrams(references)
        # The last element is the idf of n-grams that occur in no reference.
        self._idf = np.log(len(references)) - np.log(np.append(self.ngrams.document_counts(), 1))
        self._norms = _norms(self.ngrams.counts, self._idf[:-1])

    def scores(self, images: Sequence[int] | np.ndarray, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return CIDEr-D of hypotheses[h] against the references of images[h], (H,), 0 to 10.

        `images` has indices into `references`, which may repeat. If it has shape (H, K), each hypothesis is compared
        with K images, one by one, and the result has shape (H, K).
        """
        images = np.asarray(images, dtype=int)
        return self.cider_d(self.ngrams.match(images, hypotheses)).reshape(images.shape)

    def weighted_sums(self, images: np.ndarray, weights: np.ndarray, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return, for each hypothesis, the sum of weights[k] * CIDEr-D against the references of images[k], (H,).

        The result is that of `scores` with all pairs, times `weights` (K,). But the references are added up before they
        are compared with the hypotheses, so that hundreds of images take a few milliseconds.
        """
        references, (words, index) = self.ngrams.counts, self.ngrams.count(hypotheses)
        image, reference, position, entry = self.ngrams.entries(images)
        known, ngram = find(references.ngrams[entry], index[index >= 0])
        position, entry = position[known], entry[known]
        ngram = np.flatnonzero(index >= 0)[ngram[known]]  # indices into the n-grams of the hypotheses
        orders = orders_of(words.codes) - 1
        count, norm = references.counts[entry], self._norms[reference[position], orders[ngram]]
        share = weights[image] / np.bincount(image)[image]  # (references,)
        values = _divide(share[position] * count * self._idf[index[ngram]] ** 2, norm)
        # A reference of b bigrams adds to column b, because the penalty for the length depends on b.
        bigrams = np.maximum(0, references.lengths[reference] - 1)[position]
        difference = np.maximum(0, words.lengths - 1)[:, None] - np.arange(bigrams.max(initial=0) + 1)  # (H, B)
        penalty, norms = _length_penalty(difference), _norms(words, self._idf[index])
        sums = np.zeros(len(hypotheses))
        for times in range(1, words.counts.max(initial=0) + 1):
            # The product of clipped counts, min(c, r) * r, is the sum of r over all times that are at most c and r.
            often, own = count >= times, words.counts >= times
            cells = ngram[often] * difference.shape[1] + bigrams[often]
            totals = np.bincount(cells, values[often], len(words.codes) * difference.shape[1])
            hypothesis, own_ngram = words.captions[own], words.ngrams[own]
            products = (totals.reshape(len(words.codes), -1)[own_ngram] * penalty[hypothesis]).sum(axis=1)
            cosines = _divide(products, norms[hypothesis, orders[own_ngram]])
            sums += np.bincount(hypothesis, cosines, len(hypotheses))
        return 10 * sums / len(ORDERS)

    def cider_d(self, matches: Matches) -> np.ndarray:
        """Return CIDEr-D of each comparison, (comparisons,), 0 to 10."""
        return self._mean(matches, _length_penalty(self._difference(matches)))

    def cider_r(self, matches: Matches) -> np.ndarray:
        """Return CIDEr-R of each comparison, (comparisons,), 0 to 10. A reference of one token counts as two."""
        words = matches.hypotheses
        is_word = orders_of(words.codes)[words.ngrams] == 1
        # The repetition penalty is the geometric mean of 1 / (1 + |count - reference count|) over the distinct words of
        # a hypothesis; here it is computed as a logarithm. A word that is not in the reference may occur once.
        penalty = np.bincount(words.captions[is_word], np.log(words.counts[is_word]), len(words.lengths))
        entry, pair = matches.hypothesis_entry, matches.pair
        count, reference_count = words.counts[entry], self.ngrams.counts.counts[matches.reference_entry]
        change = np.where(is_word[entry], np.log1p(np.abs(count - reference_count)) - np.log(count), 0)
        penalty = penalty[matches.hypothesis] + np.bincount(pair, change, len(matches.reference))
        distinct_words = np.bincount(words.captions[is_word], minlength=len(words.lengths))
        repetition = np.exp(-penalty / np.maximum(1, distinct_words)[matches.hypothesis])
        bigrams = np.maximum(1, self.ngrams.counts.lengths[matches.reference] - 1)
        length = np.exp(-((self._difference(matches) / bigrams) ** 2))
        return self._mean(matches, repetition**_REPETITION_WEIGHT * length**_LENGTH_WEIGHT)

    def _difference(self, matches: Matches) -> np.ndarray:
        """Return the difference in length, hypothesis minus reference, in bigrams, for each pair, (P,)."""
        bigrams = np.maximum(0, matches.hypotheses.lengths - 1)
        return bigrams[matches.hypothesis] - np.maximum(0, self.ngrams.counts.lengths[matches.reference] - 1)

    def _mean(self, matches: Matches, weights: np.ndarray) -> np.ndarray:
        """Return 10 * mean(weight * cosine) over the references of each comparison. weights (P,)."""
        counts, size = self.ngrams.counts, len(matches.reference)
        ngram, reference_count = counts.ngrams[matches.reference_entry], counts.counts[matches.reference_entry]
        count = matches.hypotheses.counts[matches.hypothesis_entry]
        products = np.minimum(count, reference_count) * reference_count * self._idf[ngram] ** 2
        products = sum_by_order(products, matches.pair, orders_of(counts.codes)[ngram], size)
        norms = _norms(matches.hypotheses, self._idf[matches.reference_ngrams])
        scale = norms[matches.hypothesis] * self._norms[matches.reference]
        cosines = _divide(products, scale)
        sums = np.bincount(matches.comparison, cosines.mean(axis=1) * weights)
        return 10 * sums / np.bincount(matches.comparison)


def _length_penalty(difference: np.ndarray) -> np.ndarray:
    return np.exp(-(difference**2) / (2 * _SIGMA**2))


def _divide(values: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Divide by norms. A caption without informative n-grams has norm 0 and cosine 0."""
    return np.divide(values, norms, out=np.zeros_like(norms), where=norms > 0)


def _norms(counts: NgramCounts, idf: np.ndarray) -> np.ndarray:
    """Return the norm of each caption's tf-idf vector by order, (captions, 4)."""
    return np.sqrt(counts.sum_by_order((counts.counts * idf[counts.ngrams]) ** 2))
