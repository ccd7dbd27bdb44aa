"""Captions as padded batches of ids."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.text.vocabulary import PAD, Vocabulary

_POOL = 20  # batches that share captions of like length: little padding, and still a random order


@dataclass(frozen=True)
class CaptionSet:
    """Captions as ids, each with the row of its image's features."""

    ids: Sequence[Sequence[int]]  # each from <start> on
    image_rows: np.ndarray  # (captions,)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(image rows (N,), captions (N, T)) once over the set; in a random order where `rng` is given."""
        lengths = np.array([len(caption) for caption in self.ids])
        order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
        pool = _POOL * batch_size
        for first in range(0, len(order), pool):
            near = order[first : first + pool]
            near = near[np.argsort(lengths[near], kind="stable")]
            groups = [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
            for i in range(len(groups)) if rng is None else rng.permutation(len(groups)):
                yield torch.from_numpy(self.image_rows[groups[i]]), pad([self.ids[j] for j in groups[i]])


def caption_set(references: Iterable[Sequence[Sequence[str]]], vocabulary: Vocabulary, max_length: int) -> CaptionSet:
    """The captions (token lists) of each image, in the order of the images' features, as ids."""
    ids, rows = [], []
    for row, captions in enumerate(references):
        ids += [vocabulary.encode(tokens, max_length) for tokens in captions]
        rows += [row] * len(captions)
    return CaptionSet(ids, np.array(rows))


def pad(captions: Sequence[Sequence[int]]) -> Tensor:
    """Captions of different lengths as one (N, T), filled up with <pad>."""
    padded = np.full((len(captions), max(map(len, captions))), PAD, dtype=np.int64)
    for row, caption in zip(padded, captions, strict=True):
        row[: len(caption)] = caption
    return torch.from_numpy(padded)
