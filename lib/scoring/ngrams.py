"""Count the n-grams of captions, and find the n-grams that a hypothesis shares with its references.

BLEU and CIDEr use the same counts. N-grams are coded as integers, so that NumPy can count, weight and match the n-grams
of many captions at once.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import NamedTuple

import numpy as np

ORDERS = (1, 2, 3, 4)

Tokens = Sequence[Hashable]

_BITS = 30  # bits per id: the code of an n-gram holds its order in the high bits, and then two ids

Ids = Mapping[Hashable, int]


class NgramCounts(NamedTuple):
    """The n-gram counts of captions: G distinct n-grams, and E entries, one per caption and distinct n-gram."""

    codes: np.ndarray  # (G,) sorted
    captions: np.ndarray  # (E,) sorted
    ngrams: np.ndarray  # (E,) indices into `codes`, sorted within a caption
    counts: np.ndarray  # (E,) occurrences of the n-gram in the caption
    lengths: np.ndarray  # (captions,) number of tokens

    def sum_by_order(self, values: np.ndarray) -> np.ndarray:
        """Return, for each caption and n-gram order, the sum of the `values` (E,) of its entries, (captions, 4)."""
        orders = orders_of(self.codes).astype(np.int8)
        return sum_by_order(values, self.captions, orders[self.ngrams], len(self.lengths))


class Matches(NamedTuple):
    """H hypotheses, P pairs (hypothesis, reference) to compare, and S n-grams that occur in both captions of a pair.

    A comparison consists of the pairs of one hypothesis with all references of one image.
    """

    hypotheses: NgramCounts
    reference_ngrams: np.ndarray  # (G,) index of each n-gram in the codes of the references; -1 if it is not there
    comparison: np.ndarray  # (P,) index of the comparison, sorted
    hypothesis: np.ndarray  # (P,) index of the hypothesis
    reference: np.ndarray  # (P,) index of the reference
    pair: np.ndarray  # (S,) index of the pair, sorted
    hypothesis_entry: np.ndarray  # (S,) index of the n-gram's entry in the counts of the hypotheses
    reference_entry: np.ndarray  # (S,) index of the n-gram's entry in the counts of the references


class ReferenceNgrams:
    """The n-gram counts of fixed references, to match with any number of hypotheses.

    `references[i]` has the references of image i, at least one. Tokens may be words or ids.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        captions = list(chain.from_iterable(references))
        counts, self._token_ids, self._pair_ids = _count_ngrams(captions, {}, {})
        # int32 saves memory: COCO has 20 million entries.
        self.counts = counts._replace(
            captions=counts.captions.astype(np.int32),
            ngrams=counts.ngrams.astype(np.int32),
            counts=counts.counts.astype(np.int32),
        )
        # Captions are sorted by image, and entries by caption. So offsets give the captions of each image, and the
        # entries of each caption.
        self.caption_offsets = np.append(0, np.cumsum([len(image) for image in references]))
        self._entry_offsets = np.append(0, np.cumsum(np.bincount(counts.captions, minlength=len(captions))))

    def document_counts(self) -> np.ndarray:
        """Return, for each n-gram, the number of images whose references contain it, (G,)."""
        size = len(self.counts.codes)
        images = np.searchsorted(self.caption_offsets, self.counts.captions, "right") - 1
        image_ngrams = np.sort(images * size + self.counts.ngrams)
        distinct = image_ngrams[np.diff(image_ngrams, prepend=-1) > 0] % max(1, size)
        return np.bincount(distinct, minlength=size)

    def count(self, hypotheses: Sequence[Tokens]) -> tuple[NgramCounts, np.ndarray]:
        """Count the n-grams of hypotheses. Return also their indices in the codes of the references, (G,), or -1."""
        counts, _, _ = _count_ngrams(hypotheses, self._token_ids, self._pair_ids)
        known, index = find(counts.codes, self.counts.codes)
        return counts, np.where(known, index, -1)

    def entries(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """List the references of `images` (K,) and their entries in `counts`.

        Return for each reference the position of its image in `images` and the index of the reference, and for each
        entry the position of its reference in this list and the index of the entry.
        """
        return *(found := _expand(self.caption_offsets, images)), *_expand(self._entry_offsets, found[1])

    def match(self, images: np.ndarray, hypotheses: Sequence[Tokens]) -> Matches:
        """Match hypotheses[h] with the references of images[h].

        `images` has shape (H,), or (H, K) to compare each hypothesis with K images, one by one.
        """
        counts, index = self.count(hypotheses)
        comparison, reference, pair, entry = self.entries(images.ravel())
        hypothesis = comparison // (images.size // max(1, len(images)))
        own, size = np.flatnonzero(index[counts.ngrams] >= 0), len(self.counts.codes)
        own_ngrams = counts.captions[own] * size + index[counts.ngrams[own]]
        shared, at = find(hypothesis[pair] * size + self.counts.ngrams[entry], own_ngrams)
        return Matches(counts, index, comparison, hypothesis, reference, pair[shared], own[at[shared]], entry[shared])


def orders_of(codes: np.ndarray) -> np.ndarray:
    """Return the n of each n-gram code."""
    return codes >> 2 * _BITS


def sum_by_order(values: np.ndarray, owners: np.ndarray, orders: np.ndarray, size: int) -> np.ndarray:
    """Return the sum of the values for each owner, 0 to `size` - 1, and each n-gram order, (size, 4)."""
    return np.bincount(owners * 4 + orders - 1, values, size * 4).reshape(size, 4)


def _count_ngrams(captions: Sequence[Tokens], tokens: Ids, pairs: Ids) -> tuple[NgramCounts, Ids, Ids]:
    """Count the n-grams of `captions`. Return the counts, and the new ids of tokens and of pairs of tokens.

    `tokens` and `pairs` have the known ids. New tokens and pairs get the next free ids, in order of appearance. A code
    holds at most two ids: a pair and a token, or two pairs. So codes never collide, unlike hashes.
    """
    ids, new_tokens = _assign_ids(chain.from_iterable(captions), tokens)
    lengths = np.array([len(caption) for caption in captions], int)
    owners = np.repeat(np.arange(len(captions)), lengths)
    # Start positions of the n-grams of each order: the first and the last token must belong to the same caption.
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
    return NgramCounts(distinct, *np.divmod(entries, max(1, len(distinct))), counts, lengths), new_tokens, new_pairs


def _assign_ids(items: Iterable[Hashable], known: Ids) -> tuple[np.ndarray, Ids]:
    """Return the id of each item, and the ids of the items that are not in `known`."""
    new: defaultdict[Hashable, int] = defaultdict(count(len(known)).__next__)
    return np.fromiter((known[item] if item in known else new[item] for item in items), np.int64), new


def find(values: np.ndarray, sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the `values` that occur in `sorted_values`, and their indices in it.

    `sorted_values` has no duplicates. The index of a value that does not occur is meaningless.
    """
    index = np.searchsorted(sorted_values, values)
    found = index < len(sorted_values)
    found[found] = sorted_values[index[found]] == values[found]
    return found, index


def _expand(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the members of all `groups` in order.

    Return two arrays with one entry per member: the position of its group in `groups`, and its index.
    The members of group g have the indices offsets[g] to offsets[g + 1] - 1.
    """
    sizes = offsets[groups + 1] - offsets[groups]
    position = np.repeat(np.arange(len(groups)), sizes)
    return position, np.arange(len(position)) + (offsets[groups] - np.cumsum(sizes) + sizes)[position]
