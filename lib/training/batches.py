"""Captions as padded batches of ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lib.model.decoder import CaptionBatch
from lib.text.vocabulary import PAD, Vocabulary

# Captions of a batch are read side by side, each as long as the longest. In two parts, by their length, there is less
# padding; with more, products get too small, and a GPU would wait for more launches. (Whole batches of like length
# would be faster still, and teach less well: each would draw the decoder towards its own length.)
_PARTS = {"cpu": 2}


@dataclass(frozen=True)
class Batch:
    """Some captions and their images, each once."""

    images: np.ndarray  # (I,) rows of features
    parts: list[CaptionBatch]  # together all of them

    @property
    def words(self) -> Tensor:
        """The words that are to be guessed, (words,)."""
        return torch.cat([part.words for part in self.parts])


@dataclass(frozen=True)
class CaptionSet:
    """Captions as ids, each with the row of its image's features; captions of one image stand side by side."""

    token_ids: Tensor  # (captions, L) int32, each from <start> on, filled up with <pad>
    lengths: np.ndarray  # (captions,)
    image_rows: np.ndarray  # (captions,)

    def __len__(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device) -> "CaptionSet":
        """The same with its ids on `device`."""
        return CaptionSet(self.token_ids.to(device), self.lengths, self.image_rows)

    def take(self, batch: np.ndarray, *, bucket_by_length: bool = True) -> Batch:
        """The captions `batch` (N,), with `bucket_by_length` in parts of like length."""
        if bucket_by_length:
            batch = batch[np.argsort(self.lengths[batch], kind="stable")]
        images, rows = np.unique(self.image_rows[batch], return_inverse=True)
        parts = min(len(batch), _PARTS.get(self.token_ids.device.type, 1)) if bucket_by_length else 1
        pairs = zip(np.array_split(batch, parts), np.array_split(rows, parts), strict=True)
        return Batch(images, [self._part(captions, of) for captions, of in pairs])

    def _part(self, captions: np.ndarray, rows: np.ndarray) -> CaptionBatch:
        lengths = self.lengths[captions]
        there = torch.from_numpy(np.stack([captions, rows, lengths])).to(self.token_ids.device)
        ids = self.token_ids[there[0], : lengths.max()].long()
        return CaptionBatch.of_lengths(there[1], ids, there[2], self.words(captions))

    def words(self, batch: np.ndarray) -> int:
        """How many words of the captions `batch` are to be guessed: all but <start>."""
        return int((self.lengths[batch] - 1).sum())

    def batches(self, size: int, rng: np.random.Generator | None = None, *, by_image: bool = False) -> list[np.ndarray]:
        """Batches of about `size` captions, once over the set; in a random order where `rng` is given.

        With `by_image` the captions of an image are never parted: what is made of an image is then made once for all
        of them.
        """
        items = len(self)
        if by_image:
            _, firsts, counts = np.unique(self.image_rows, return_index=True, return_counts=True)
            items, size = len(firsts), max(1, round(size * len(firsts) / len(self)))
        order = np.arange(items) if rng is None else rng.permutation(items)
        planned = np.split(order, range(size, items, size))
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
    return CaptionSet(torch.from_numpy(ids), lengths, np.repeat(np.arange(len(counts)), counts))
