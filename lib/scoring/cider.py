"""CIDEr-D (Vedantam et al. 2015): tf-idf weighted n-gram similarity to the references, as coco-caption computes it.

The idf comes from the references alone. Counts are clipped to those of the reference. A Gaussian (sigma 6) penalises
a difference in length, which coco-caption takes as the number of bigrams.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from lib.scoring.ngrams import ORDERS, NgramCounts, Tokens, count_ngrams, find

_SIGMA = 6.0


class CiderD:
    """Scores hypotheses against fixed references, as self-critical training and consensus reranking need it.

    references[i] are the references of image i, at least one. Their tf-idf vectors are computed here, once.
    Tokens may be anything hashable: words or ids.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        captions = list(chain.from_iterable(references))
        counts = count_ngrams(captions, {}, {})
        self._token_ids, self._pair_ids = counts.new_tokens, counts.new_pairs
        self._codes, self._orders = counts.codes, counts.orders
        # The captions of an image are contiguous, and so are the entries of a caption.
        self._caption_offsets = _offsets([len(image) for image in references])
        self._entry_offsets = _offsets(np.bincount(counts.captions, minlength=len(captions)))
        # int32, because COCO has 20 million entries.
        self._ngrams, self._counts = counts.ngrams.astype(np.int32), counts.counts.astype(np.int32)

        images = np.searchsorted(self._caption_offsets, counts.captions, "right") - 1
        image_ngrams = np.sort(images * len(self._codes) + counts.ngrams)
        distinct = image_ngrams[np.diff(image_ngrams, prepend=-1) > 0] % max(1, len(self._codes))
        document_counts = np.bincount(distinct, minlength=len(self._codes))
        # The last one is the idf of n-grams that no reference has.
        self._idf = np.log(len(references)) - np.log(np.append(document_counts, 1))
        self._norms = _norms(counts, self._idf, len(captions))
        self._bigrams = _count_bigrams(captions)

    def scores(self, images: Sequence[int] | np.ndarray, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return CIDEr-D of hypotheses[h] against the references of images[h], (H,), 0 to 10.

        `images` are indices into `references` and may repeat. If it is (H, K), each hypothesis is compared with K
        images, one by one: (H, K).
        """
        images = np.asarray(images, dtype=int)
        counts = count_ngrams(hypotheses, self._token_ids, self._pair_ids)
        known, index = find(counts.codes, self._codes)
        norms = _norms(counts, self._idf[np.where(known, index, -1)], len(hypotheses))

        # Pair each hypothesis with each reference of its images, and each pair with each n-gram of the reference.
        # Keep the n-grams that the hypothesis has too.
        comparison, reference = _expand(self._caption_offsets, images.ravel())
        hypothesis = comparison // (images.size // max(1, len(images)))
        pair, entry = _expand(self._entry_offsets, reference)
        own = known[counts.ngrams]
        shared, at = find(
            hypothesis[pair] * len(self._codes) + self._ngrams[entry],
            counts.captions[own] * len(self._codes) + index[counts.ngrams[own]],
        )
        pair, entry = pair[shared], entry[shared]
        ngram, reference_count, count = self._ngrams[entry], self._counts[entry], counts.counts[own][at[shared]]
        products = np.minimum(count, reference_count) * reference_count * self._idf[ngram] ** 2
        products = _sum_by_order(products, pair, self._orders[ngram], len(reference))

        scale = norms[hypothesis] * self._norms[reference]
        cosines = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
        difference = _count_bigrams(hypotheses)[hypothesis] - self._bigrams[reference]
        similarities = cosines.mean(axis=1) * np.exp(-(difference**2) / (2 * _SIGMA**2))
        references = np.bincount(comparison, minlength=images.size)
        return (10 * np.bincount(comparison, similarities, minlength=images.size) / references).reshape(images.shape)


def _norms(counts: NgramCounts, idf: np.ndarray, captions: int) -> np.ndarray:
    """Return the length of each caption's tf-idf vector by order, (captions, 4)."""
    squares = (counts.counts * idf[counts.ngrams]) ** 2
    return np.sqrt(_sum_by_order(squares, counts.captions, counts.orders[counts.ngrams], captions))


def _count_bigrams(captions: Sequence[Tokens]) -> np.ndarray:
    return np.array([max(0, len(tokens) - 1) for tokens in captions])


def _sum_by_order(values: np.ndarray, owners: np.ndarray, orders: np.ndarray, size: int) -> np.ndarray:
    """Sum the values of each owner by order, (size, 4)."""
    columns = len(ORDERS)
    return np.bincount(owners * columns + orders - 1, values, minlength=size * columns).reshape(size, columns)


def _offsets(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the first index of each group, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _expand(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the members of each of `groups`: for each member, the position of its group in `groups`, and its index."""
    sizes = offsets[groups + 1] - offsets[groups]
    position = np.repeat(np.arange(len(groups)), sizes)
    return position, np.arange(len(position)) + (offsets[groups] - _offsets(sizes)[:-1])[position]
