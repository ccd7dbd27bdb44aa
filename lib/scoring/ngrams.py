"""N-grams as integers, so that NumPy can count, weigh and match those of many captions at once."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

ORDERS = (1, 2, 3, 4)

Tokens = Sequence[Hashable]
Numbers = Mapping[Hashable, int]

_BITS = 30  # of a code for each of its two numbers; above them stands the order


@dataclass(frozen=True)
class Counted:
    """The n-grams of some captions, counted: G different ones, of which the captions together have E."""

    codes: np.ndarray  # (G,) sorted
    owners: np.ndarray  # (E,) captions, sorted
    ngrams: np.ndarray  # (E,) of the owner, sorted, as places in `codes`
    counts: np.ndarray  # (E,) how often the owner has it
    new_words: Numbers
    new_pairs: Numbers

    @property
    def orders(self) -> np.ndarray:
        """(G,) How many words each n-gram has."""
        return (self.codes >> 2 * _BITS).astype(np.int8)


def count_ngrams(captions: Sequence[Tokens], words: Numbers, pairs: Numbers) -> Counted:
    """Counts the n-grams of `captions`, coded by the numbers in `words` and `pairs`.

    New words are numbered on from there in the order in which they are met, and so are pairs of words. A code has two
    of these numbers at most (a pair and a word, a pair and a pair): unlike a hash, it is of one n-gram alone.
    """
    numbers, new_words = _numbered(chain.from_iterable(captions), words)
    owners = np.repeat(np.arange(len(captions)), np.array([len(tokens) for tokens in captions], dtype=int))
    # Where n words begin that are all of one caption.
    one, two, three, four = (
        np.flatnonzero(owners[: max(0, len(owners) - n + 1)] == owners[n - 1 :]) for n in ORDERS
    )  # fmt: skip
    paired = np.zeros_like(numbers)
    paired[two], new_pairs = _numbered((numbers[two] << _BITS | numbers[two + 1]).tolist(), pairs)
    codes, ngrams = np.unique(
        np.concatenate(
            [
                _code(1, numbers[one]),
                _code(2, paired[two]),
                _code(3, paired[three], numbers[three + 2]),
                _code(4, paired[four], paired[four + 2]),
            ]
        ),
        return_inverse=True,
    )
    owners = owners[np.concatenate([one, two, three, four])]
    entries, counts = np.unique(owners * len(codes) + ngrams, return_counts=True)
    owners, ngrams = np.divmod(entries, max(1, len(codes)))
    return Counted(codes, owners, ngrams, counts, new_words, new_pairs)


def find(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of `wanted` are among `known`, which is sorted and has none twice, and where they are there."""
    place = np.searchsorted(known, wanted)
    found = place < len(known)
    found[found] = known[place[found]] == wanted[found]
    return found, place


def _code(order: int, first: np.ndarray, second: np.ndarray | int = 0) -> np.ndarray:
    return order << 2 * _BITS | first << _BITS | second


def _numbered(items: Iterable[Hashable], known: Numbers) -> tuple[np.ndarray, Numbers]:
    """The number of each item, and the items that are not in `known` with theirs."""
    new: defaultdict[Hashable, int] = defaultdict(count(len(known)).__next__)
    numbers = np.fromiter((known[item] if item in known else new[item] for item in items), np.int64)
    return numbers, dict(new)
