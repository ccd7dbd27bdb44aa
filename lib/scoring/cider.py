"""CIDEr-D (Vedantam et al. 2015): tf-idf weighted n-gram similarity to the references, as coco-caption computes it.

The idf comes from the references alone. Counts are clipped to the reference's, and a Gaussian (sigma 6) punishes a
difference in length, which coco-caption takes as the number of bigrams.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from lib.scoring.ngrams import ORDERS, Counted, Tokens, count_ngrams, find

_SIGMA = 6.0


def cider_d(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]) -> np.ndarray:
    """CIDEr-D of each caption, (I,), 0 to 10; the corpus score is their mean.

    references[i] are the references of image i, at least one; hypotheses[i] is its caption.
    """
    return CiderD(references).scores(range(len(references)), hypotheses)


class CiderD:
    """CIDEr-D against the same references again and again, as self-critical training and a consensus need it.

    references[i] are the references of image i, at least one. Their n-grams are counted and weighed here, once.
    Tokens may be anything hashable: words, or their numbers.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        captions = list(chain.from_iterable(references))
        counted = count_ngrams(captions, {}, {})
        self._words, self._pairs = counted.new_words, counted.new_pairs
        self._codes, self._orders = counted.codes, counted.orders
        # An image's captions lie side by side, and so do a caption's n-grams: where they begin, and the last ends.
        self._captions_of = _offsets([len(image) for image in references])
        self._ngrams_of = _offsets(np.bincount(counted.owners, minlength=len(captions)))
        # 20 million for COCO.
        self._ngrams, self._counts = counted.ngrams.astype(np.int32), counted.counts.astype(np.int32)

        images = np.searchsorted(self._captions_of, counted.owners, "right") - 1
        in_images = np.sort(images * len(self._codes) + counted.ngrams)
        once_an_image = in_images[np.diff(in_images, prepend=-1) > 0] % max(1, len(self._codes))
        images_with = np.bincount(once_an_image, minlength=len(self._codes))
        self._idf = np.log(len(references)) - np.log(np.append(images_with, 1))  # the last: of n-grams not met here
        self._norms = _norms(counted, self._idf, len(captions))
        self._bigrams = _bigrams(captions)

    def scores(self, rows: Sequence[int] | np.ndarray, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """CIDEr-D of hypotheses[h] against the references of image rows[h], (H,), 0 to 10; rows may repeat.

        Where rows is (H, K), each hypothesis is compared with K images, one by one: (H, K).
        """
        rows = np.asarray(rows, dtype=int)
        counted = count_ngrams(hypotheses, self._words, self._pairs)
        known, place = find(counted.codes, self._codes)
        norms = _norms(counted, self._idf[np.where(known, place, -1)], len(hypotheses))

        # Every hypothesis with every reference of its images, and every such pair with every n-gram of the reference;
        # of these, the ones that the hypothesis has too.
        compared, reference = _members(self._captions_of, rows.ravel())
        hypothesis = compared // (rows.size // max(1, len(rows)))
        pair, entry = _members(self._ngrams_of, reference)
        own = known[counted.ngrams]
        shared, at = find(
            hypothesis[pair] * len(self._codes) + self._ngrams[entry],
            counted.owners[own] * len(self._codes) + place[counted.ngrams[own]],
        )
        pair, entry = pair[shared], entry[shared]
        ngram, count, clipped = self._ngrams[entry], self._counts[entry], counted.counts[own][at[shared]]
        products = np.minimum(clipped, count) * count * self._idf[ngram] ** 2
        products = _sum_by_order(products, pair, self._orders[ngram], len(reference))

        scale = norms[hypothesis] * self._norms[reference]
        cosines = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
        difference = _bigrams(hypotheses)[hypothesis] - self._bigrams[reference]
        similarities = cosines.mean(axis=1) * np.exp(-(difference**2) / (2 * _SIGMA**2))
        references = np.bincount(compared, minlength=rows.size)
        return (10 * np.bincount(compared, similarities, minlength=rows.size) / references).reshape(rows.shape)


def _norms(counted: Counted, idf: np.ndarray, captions: int) -> np.ndarray:
    """The length of each caption's tf-idf vector, order by order, (captions, 4)."""
    squares = (counted.counts * idf[counted.ngrams]) ** 2
    return np.sqrt(_sum_by_order(squares, counted.owners, counted.orders[counted.ngrams], captions))


def _bigrams(captions: Sequence[Tokens]) -> np.ndarray:
    return np.array([max(0, len(tokens) - 1) for tokens in captions])


def _sum_by_order(values: np.ndarray, owners: np.ndarray, orders: np.ndarray, number: int) -> np.ndarray:
    """Sums over the n-grams of each owner, order by order, (number, 4)."""
    columns = len(ORDERS)
    return np.bincount(owners * columns + orders - 1, values, minlength=number * columns).reshape(number, columns)


def _offsets(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each group begins among the members of all, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _members(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The members of each of `groups`, one after another: for each of them its place in `groups`, and itself."""
    sizes = offsets[groups + 1] - offsets[groups]
    place = np.repeat(np.arange(len(groups)), sizes)
    return place, np.arange(len(place)) + (offsets[groups] - _offsets(sizes)[:-1])[place]
