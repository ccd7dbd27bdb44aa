"""N-grams as integers, so that NumPy can count, weight and match those of many captions at once."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

ORDERS = (1, 2, 3, 4)

Tokens = Sequence[Hashable]
Ids = Mapping[Hashable, int]

_BITS = 30  # of each of the two ids in a code; the order is above them


@dataclass(frozen=True)
class NgramCounts:
    """The n-gram counts of some captions: G distinct n-grams, E entries (caption, n-gram)."""

    codes: np.ndarray  # (G,) sorted
    captions: np.ndarray  # (E,) sorted
    ngrams: np.ndarray  # (E,) indices into `codes`, sorted within a caption
    counts: np.ndarray  # (E,) occurrences of the n-gram in the caption
    new_tokens: Ids
    new_pairs: Ids

    @property
    def orders(self) -> np.ndarray:
        """Return the order of each n-gram, (G,)."""
        return (self.codes >> 2 * _BITS).astype(np.int8)


def count_ngrams(captions: Sequence[Tokens], tokens: Ids, pairs: Ids) -> NgramCounts:
    """Count the n-grams of `captions`, coded with the ids in `tokens` and `pairs`.

    New tokens and new pairs of tokens get the next free ids, in order of appearance. A code holds at most two ids (a
    pair and a token, or two pairs), so unlike hashes, codes never collide.
    """
    ids, new_tokens = _assign_ids(chain.from_iterable(captions), tokens)
    owners = np.repeat(np.arange(len(captions)), np.array([len(caption) for caption in captions], dtype=int))
    # Positions of the n-grams of each order: the first and the last token are of the same caption.
    one, two, three, four = (
        np.flatnonzero(owners[: max(0, len(owners) - n + 1)] == owners[n - 1 :]) for n in ORDERS
    )  # fmt: skip
    pair_ids = np.zeros_like(ids)
    pair_ids[two], new_pairs = _assign_ids((ids[two] << _BITS | ids[two + 1]).tolist(), pairs)
    occurrences = [
        _code(1, ids[one]),
        _code(2, pair_ids[two]),
        _code(3, pair_ids[three], ids[three + 2]),
        _code(4, pair_ids[four], pair_ids[four + 2]),
    ]
    codes, ngrams = np.unique(np.concatenate(occurrences), return_inverse=True)
    owners = owners[np.concatenate([one, two, three, four])]
    entries, counts = np.unique(owners * len(codes) + ngrams, return_counts=True)
    owners, ngrams = np.divmod(entries, max(1, len(codes)))
    return NgramCounts(codes, owners, ngrams, counts, new_tokens, new_pairs)


def find(values: np.ndarray, sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which `values` occur in `sorted_values`, which has no duplicates, and their indices there."""
    index = np.searchsorted(sorted_values, values)
    found = index < len(sorted_values)
    found[found] = sorted_values[index[found]] == values[found]
    return found, index


def _code(order: int, first: np.ndarray, second: np.ndarray | int = 0) -> np.ndarray:
    return order << 2 * _BITS | first << _BITS | second


def _assign_ids(items: Iterable[Hashable], known: Ids) -> tuple[np.ndarray, Ids]:
    """Return the id of each item, and the ids of the items that are not in `known`."""
    new: defaultdict[Hashable, int] = defaultdict(count(len(known)).__next__)
    ids = np.fromiter((known[item] if item in known else new[item] for item in items), np.int64)
    return ids, dict(new)
