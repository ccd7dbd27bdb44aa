"""CIDEr-D (Vedantam et al. 2015): tf-idf weighted n-gram similarity to the references, as coco-caption computes it.

The idf comes from the references alone. Counts are clipped to those of the reference. A Gaussian (sigma 6) penalises
a difference in length, which coco-caption takes as the number of bigrams.
N-grams are coded as integers, so that NumPy can count, weight and match those of many captions at once.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import NamedTuple

import numpy as np

from lib.scoring.bleu import ORDERS, Tokens

_SIGMA = 6.0
_BITS = 30  # of each of the two ids in the code of an n-gram; the order is above them

Ids = Mapping[Hashable, int]


class CiderD:
    """Scores hypotheses against fixed references, as self-critical training and consensus reranking need it.

    references[i] are the references of image i, at least one. Their tf-idf vectors are computed here, once.
    Tokens may be anything hashable: words or ids.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        captions = list(chain.from_iterable(references))
        counts, self._token_ids, self._pair_ids = _count_ngrams(captions, {}, {})
        self._codes, size = counts.codes, len(counts.codes)
        # The captions of an image are contiguous, and so are the entries of a caption. The offsets end with the total.
        self._caption_offsets = np.append(0, np.cumsum([len(image) for image in references]))
        self._entry_offsets = np.append(0, np.cumsum(np.bincount(counts.captions, minlength=len(captions))))
        # int32, because COCO has 20 million entries.
        self._ngrams, self._counts = counts.ngrams.astype(np.int32), counts.counts.astype(np.int32)

        images = np.searchsorted(self._caption_offsets, counts.captions, "right") - 1
        image_ngrams = np.sort(images * size + counts.ngrams)
        distinct = image_ngrams[np.diff(image_ngrams, prepend=-1) > 0] % max(1, size)
        document_counts = np.bincount(distinct, minlength=size)
        # The last one is the idf of n-grams that no reference has.
        self._idf = np.log(len(references)) - np.log(np.append(document_counts, 1))
        self._norms, self._bigrams = _norms(counts, self._idf, len(captions)), _count_bigrams(captions)

    def scores(self, images: Sequence[int] | np.ndarray, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return CIDEr-D of hypotheses[h] against the references of images[h], (H,), 0 to 10.

        `images` are indices into `references` and may repeat. If it is (H, K), each hypothesis is compared with K
        images, one by one: (H, K).
        """
        images = np.asarray(images, dtype=int)
        counts, _, _ = _count_ngrams(hypotheses, self._token_ids, self._pair_ids)
        known, index = _find(counts.codes, self._codes)
        norms = _norms(counts, self._idf[np.where(known, index, -1)], len(hypotheses))

        # Pair each hypothesis with each reference of its images, and each pair with each n-gram that both have.
        comparison, reference = _expand(self._caption_offsets, images.ravel())
        hypothesis = comparison // (images.size // max(1, len(images)))
        pair, entry = _expand(self._entry_offsets, reference)
        own = known[counts.ngrams]
        own_ngrams = counts.captions[own] * len(self._codes) + index[counts.ngrams[own]]
        shared, at = _find(hypothesis[pair] * len(self._codes) + self._ngrams[entry], own_ngrams)
        pair, entry = pair[shared], entry[shared]
        ngram, reference_count, count = self._ngrams[entry], self._counts[entry], counts.counts[own][at[shared]]
        products = np.minimum(count, reference_count) * reference_count * self._idf[ngram] ** 2
        products = _sum_by_order(products, pair, self._codes[ngram] >> 2 * _BITS, len(reference))

        scale = norms[hypothesis] * self._norms[reference]
        cosines = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
        difference = _count_bigrams(hypotheses)[hypothesis] - self._bigrams[reference]
        similarities = cosines.mean(axis=1) * np.exp(-(difference**2) / (2 * _SIGMA**2))
        sums, sizes = np.bincount(comparison, similarities, images.size), np.bincount(comparison, None, images.size)
        return (10 * sums / sizes).reshape(images.shape)


class _NgramCounts(NamedTuple):
    """The n-gram counts of some captions: G distinct n-grams, E entries (caption, n-gram)."""

    codes: np.ndarray  # (G,) sorted
    captions: np.ndarray  # (E,) sorted
    ngrams: np.ndarray  # (E,) indices into `codes`, sorted within a caption
    counts: np.ndarray  # (E,) occurrences of the n-gram in the caption


def _count_ngrams(captions: Sequence[Tokens], tokens: Ids, pairs: Ids) -> tuple[_NgramCounts, Ids, Ids]:
    """Count the n-grams of `captions`, coded with the ids in `tokens` and `pairs`. Return the new ids, too.

    New tokens and new pairs of tokens get the next free ids, in order of appearance. A code holds at most two ids (a
    pair and a token, or two pairs), so unlike hashes, codes never collide.
    """
    ids, new_tokens = _assign_ids(chain.from_iterable(captions), tokens)
    owners = np.repeat(np.arange(len(captions)), np.array([len(caption) for caption in captions], int))
    # Positions of the n-grams of each order: the first and the last token are of the same caption.
    starts = [np.flatnonzero(owners[: max(0, len(ids) - n + 1)] == owners[n - 1 :]) for n in ORDERS]
    one, two, three, four = starts
    pair_ids = np.zeros_like(ids)
    pair_ids[two], new_pairs = _assign_ids((ids[two] << _BITS | ids[two + 1]).tolist(), pairs)
    codes = [
        1 << 2 * _BITS | ids[one] << _BITS,
        2 << 2 * _BITS | pair_ids[two] << _BITS,
        3 << 2 * _BITS | pair_ids[three] << _BITS | ids[three + 2],
        4 << 2 * _BITS | pair_ids[four] << _BITS | pair_ids[four + 2],
    ]
    distinct, ngrams = np.unique(np.concatenate(codes), return_inverse=True)
    entries, counts = np.unique(owners[np.concatenate(starts)] * len(distinct) + ngrams, return_counts=True)
    return _NgramCounts(distinct, *np.divmod(entries, max(1, len(distinct))), counts), new_tokens, new_pairs


def _assign_ids(items: Iterable[Hashable], known: Ids) -> tuple[np.ndarray, Ids]:
    """Return the id of each item, and the ids of the items that are not in `known`."""
    new: defaultdict[Hashable, int] = defaultdict(count(len(known)).__next__)
    return np.fromiter((known[item] if item in known else new[item] for item in items), np.int64), new


def _find(values: np.ndarray, sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which `values` occur in `sorted_values`, which has no duplicates, and their indices there."""
    index = np.searchsorted(sorted_values, values)
    found = index < len(sorted_values)
    found[found] = sorted_values[index[found]] == values[found]
    return found, index


def _norms(counts: _NgramCounts, idf: np.ndarray, captions: int) -> np.ndarray:
    """Return the length of each caption's tf-idf vector by order, (captions, 4)."""
    squares, orders = (counts.counts * idf[counts.ngrams]) ** 2, (counts.codes >> 2 * _BITS).astype(np.int8)
    return np.sqrt(_sum_by_order(squares, counts.captions, orders[counts.ngrams], captions))


def _sum_by_order(values: np.ndarray, owners: np.ndarray, orders: np.ndarray, size: int) -> np.ndarray:
    """Sum the values of each owner by the order of their n-grams, (size, 4)."""
    return np.bincount(owners * 4 + orders - 1, values, size * 4).reshape(size, 4)


def _count_bigrams(captions: Sequence[Tokens]) -> np.ndarray:
    return np.array([max(0, len(tokens) - 1) for tokens in captions])


def _expand(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the members of each of `groups`: for each member, the position of its group in `groups`, and its index."""
    sizes = offsets[groups + 1] - offsets[groups]
    position = np.repeat(np.arange(len(groups)), sizes)
    return position, np.arange(len(position)) + (offsets[groups] - np.cumsum(sizes) + sizes)[position]
