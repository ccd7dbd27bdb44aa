"""Count the n-grams of captions, and find those that a hypothesis shares with its references.

BLEU and CIDEr need the same counts. N-grams are coded as integers, so that NumPy can count, weight and match those of
many captions at once.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import NamedTuple

import numpy as np

ORDERS = (1, 2, 3, 4)

Tokens = Sequence[Hashable]

_BITS = 30  # of each of the two ids in the code of an n-gram; the order is above them

Ids = Mapping[Hashable, int]


class NgramCounts(NamedTuple):
    """The n-gram counts of some captions: G distinct n-grams, E entries (caption, n-gram)."""

    codes: np.ndarray  # (G,) sorted
    captions: np.ndarray  # (E,) sorted
    ngrams: np.ndarray  # (E,) indices into `codes`, sorted within a caption
    counts: np.ndarray  # (E,) occurrences of the n-gram in the caption
    lengths: np.ndarray  # (captions,) number of tokens

    def sum_by_order(self, values: np.ndarray) -> np.ndarray:
        """Sum `values` (E,) of each caption by the order of their n-grams, (captions, 4)."""
        orders = orders_of(self.codes).astype(np.int8)
        return sum_by_order(values, self.captions, orders[self.ngrams], len(self.lengths))


class Matches(NamedTuple):
    """H hypotheses, the P pairs (hypothesis, reference) to compare, and the S n-grams that the two of a pair share."""

    hypotheses: NgramCounts
    reference_ngrams: np.ndarray  # (G,) the index in the references' codes of each n-gram; -1 if not there
    comparison: np.ndarray  # (P,) sorted: all references of one image form one comparison with one hypothesis
    hypothesis: np.ndarray  # (P,)
    reference: np.ndarray  # (P,)
    pair: np.ndarray  # (S,) sorted
    hypothesis_entry: np.ndarray  # (S,) the n-gram as an entry of the hypotheses' counts
    reference_entry: np.ndarray  # (S,) the n-gram as an entry of the references' counts


class ReferenceNgrams:
    """The n-gram counts of fixed references, for any number of hypotheses.

    references[i] are the references of image i, at least one. Tokens may be anything hashable: words or ids.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        captions = list(chain.from_iterable(references))
        counts, self._token_ids, self._pair_ids = _count_ngrams(captions, {}, {})
        # int32, because COCO has 20 million entries.
        self.counts = counts._replace(
            captions=counts.captions.astype(np.int32),
            ngrams=counts.ngrams.astype(np.int32),
            counts=counts.counts.astype(np.int32),
        )
        # The captions of an image are contiguous, and so are the entries of a caption. The offsets end with the total.
        self.caption_offsets = np.append(0, np.cumsum([len(image) for image in references]))
        self._entry_offsets = np.append(0, np.cumsum(np.bincount(counts.captions, minlength=len(captions))))

    def document_counts(self) -> np.ndarray:
        """Return in the references of how many images each n-gram occurs, (G,)."""
        size = len(self.counts.codes)
        images = np.searchsorted(self.caption_offsets, self.counts.captions, "right") - 1
        image_ngrams = np.sort(images * size + self.counts.ngrams)
        distinct = image_ngrams[np.diff(image_ngrams, prepend=-1) > 0] % max(1, size)
        return np.bincount(distinct, minlength=size)

    def match(self, images: np.ndarray, hypotheses: Sequence[Tokens]) -> Matches:
        """Match hypotheses[h] with the references of images[h], (H,), or with those of K images one by one, (H, K)."""
        counts, _, _ = _count_ngrams(hypotheses, self._token_ids, self._pair_ids)
        known, index = _find(counts.codes, self.counts.codes)
        comparison, reference = _expand(self.caption_offsets, images.ravel())
        hypothesis = comparison // (images.size // max(1, len(images)))
        pair, entry = _expand(self._entry_offsets, reference)
        own, size = np.flatnonzero(known[counts.ngrams]), len(self.counts.codes)
        own_ngrams = counts.captions[own] * size + index[counts.ngrams[own]]
        shared, at = _find(hypothesis[pair] * size + self.counts.ngrams[entry], own_ngrams)
        index = np.where(known, index, -1)
        return Matches(counts, index, comparison, hypothesis, reference, pair[shared], own[at[shared]], entry[shared])


def orders_of(codes: np.ndarray) -> np.ndarray:
    """Return the n of each n-gram code."""
    return codes >> 2 * _BITS


def sum_by_order(values: np.ndarray, owners: np.ndarray, orders: np.ndarray, size: int) -> np.ndarray:
    """Sum the values of each owner by the order of their n-grams, (size, 4)."""
    return np.bincount(owners * 4 + orders - 1, values, size * 4).reshape(size, 4)


def _count_ngrams(captions: Sequence[Tokens], tokens: Ids, pairs: Ids) -> tuple[NgramCounts, Ids, Ids]:
    """Count the n-grams of `captions`, coded with the ids in `tokens` and `pairs`. Return the new ids, too.

    New tokens and new pairs of tokens get the next free ids, in order of appearance. A code holds at most two ids (a
    pair and a token, or two pairs), so unlike hashes, codes never collide.
    """
    ids, new_tokens = _assign_ids(chain.from_iterable(captions), tokens)
    lengths = np.array([len(caption) for caption in captions], int)
    owners = np.repeat(np.arange(len(captions)), lengths)
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
    return NgramCounts(distinct, *np.divmod(entries, max(1, len(distinct))), counts, lengths), new_tokens, new_pairs


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


def _expand(offsets: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the members of each of `groups`: for each member, the position of its group in `groups`, and its index."""
    sizes = offsets[groups + 1] - offsets[groups]
    position = np.repeat(np.arange(len(groups)), sizes)
    return position, np.arange(len(position)) + (offsets[groups] - np.cumsum(sizes) + sizes)[position]
