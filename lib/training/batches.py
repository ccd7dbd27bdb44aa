"""Captions as padded batches of ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lib.text.vocabulary import PAD, Vocabulary

_POOL = 20  # batches that share captions of like length: little padding, and still a random order


@dataclass(frozen=True)
class CaptionSet:
    """Captions as ids, each with the row of its image's features; captions of one image stand side by side."""

    ids: Tensor  # (captions, L) int32, each from <start> on, filled up with <pad>
    lengths: np.ndarray  # (captions,)
    image_rows: Tensor  # (captions,)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "CaptionSet":
        """The same with its tensors on `device`."""
        return CaptionSet(self.ids.to(device), self.lengths, self.image_rows.to(device))

    def take(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """The image rows (N,) and the captions (N, T), as long as their longest, of the captions `batch` (N,)."""
        chosen = torch.from_numpy(batch).to(self.ids.device)
        return self.image_rows[chosen], self.ids[chosen, : self.lengths[batch].max()].long()

    def words(self, batch: np.ndarray) -> int:
        """How many words of the captions `batch` are to be guessed: all but <start>."""
        return int((self.lengths[batch] - 1).sum())

    def batches(
        self, size: int, rng: np.random.Generator | None = None, *, by_image: bool = False, bucketing: bool = True
    ) -> list[np.ndarray]:
        """Batches of about `size` captions, once over the set; in a random order where `rng` is given.

        With `bucketing` captions of like length stand together. With `by_image` the captions of an image are never
        parted: what is made of an image is then made once for all of them.
        """
        if by_image:
            _, firsts, counts = np.unique(self.image_rows.cpu().numpy(), return_index=True, return_counts=True)
            lengths = np.maximum.reduceat(self.lengths, firsts)
            size = max(1, round(size * len(firsts) / len(self)))
        else:
            lengths = self.lengths
        order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
        planned: list[np.ndarray] = []
        for pool in np.split(order, range(_POOL * size, len(order), _POOL * size)):
            near = pool[np.argsort(lengths[pool], kind="stable")] if bucketing else pool
            alike = np.split(near, range(size, len(near), size))
            planned += alike if rng is None else [alike[i] for i in rng.permutation(len(alike))]
        if by_image:
            return [np.concatenate([np.arange(counts[i]) + firsts[i] for i in images]) for images in planned]
        return planned


def caption_set(references: Iterable[Sequence[Sequence[str]]], vocabulary: Vocabulary, max_length: int) -> CaptionSet:
    """The captions (token lists) of each image, in the order of the images' features, as ids."""
    references = list(references)
    counts = [len(captions) for captions in references]
    longest = min(max_length, max(map(len, chain.from_iterable(references)), default=0))
    ids = np.full((sum(counts), longest + 2), PAD, dtype=np.int32)  # with <start> and <end>
    lengths = np.empty(len(ids), dtype=np.int64)
    for row, tokens in enumerate(chain.from_iterable(references)):
        caption = vocabulary.encode(tokens, max_length)
        ids[row, : len(caption)], lengths[row] = caption, len(caption)
    image_rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return CaptionSet(torch.from_numpy(ids), lengths, image_rows)


def targets(captions: Tensor) -> Tensor:
    """The words that are to be guessed, (words,): those of `captions` (N, T) after the first, padding left out."""
    return captions[:, 1:][captions[:, 1:] != PAD]


def pad(captions: Sequence[Sequence[int]]) -> Tensor:
    """Captions of different lengths as one (N, T), filled up with <pad>."""
    padded = np.full((len(captions), max(map(len, captions))), PAD, dtype=np.int64)
    for row, caption in zip(padded, captions, strict=True):
        row[: len(caption)] = caption
    return torch.from_numpy(padded)
