"""Captions as padded batches of token ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lib.model.decoder import CaptionBatch
from lib.text.vocabulary import PAD, Vocabulary

# Captions are padded to the longest caption in their part of a batch. On a CPU, two parts of similar length need less
# padding. More parts would make the matrix products too small. On a GPU, each part would launch more kernels. (Batches
# of similar length would be faster, but train worse: each batch would pull the decoder towards its own length.)
_PARTS = {"cpu": 2}


@dataclass(frozen=True)
class Batch:
    """A batch of captions, and their images without repetition."""

    images: np.ndarray  # (I,): rows of the features
    parts: list[CaptionBatch]  # each part's `image_index` refers to `images`

    @property
    def targets(self) -> Tensor:
        """Return the tokens to predict, (num_tokens,)."""
        return torch.cat([part.words for part in self.parts])


@dataclass(frozen=True)
class CaptionSet:
    """Captions as token ids, and the feature row of each caption's image. Captions of one image are adjacent."""

    token_ids: Tensor  # (captions, L) int32: <start>, tokens, <end>, <pad>
    lengths: np.ndarray  # (captions,)
    image_index: np.ndarray  # (captions,)

    def __len__(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device) -> "CaptionSet":
        """Return the same captions with token_ids on `device`."""
        return CaptionSet(self.token_ids.to(device), self.lengths, self.image_index)

    def take(self, captions: np.ndarray, *, bucket_by_length: bool = True) -> Batch:
        """Return the captions with the indices `captions` (N,). `bucket_by_length` splits them into parts by length."""
        if bucket_by_length:
            captions = captions[np.argsort(self.lengths[captions], kind="stable")]
        images, image_index = np.unique(self.image_index[captions], return_inverse=True)
        parts = min(len(captions), _PARTS.get(self.token_ids.device.type, 1)) if bucket_by_length else 1
        pairs = zip(np.array_split(captions, parts), np.array_split(image_index, parts), strict=True)
        return Batch(images, [self._part(*pair) for pair in pairs])

    def _part(self, captions: np.ndarray, image_index: np.ndarray) -> CaptionBatch:
        lengths = self.lengths[captions]
        columns = torch.from_numpy(np.stack([captions, image_index, lengths])).to(self.token_ids.device)
        token_ids = self.token_ids[columns[0], : lengths.max()].long()
        return CaptionBatch.of_lengths(columns[1], token_ids, columns[2], self.num_tokens(captions))

    def num_tokens(self, captions: np.ndarray) -> int:
        """Return the number of tokens to predict in `captions`: all except <start>."""
        return int((self.lengths[captions] - 1).sum())

    def batches(self, size: int, rng: np.random.Generator | None = None, *, by_image: bool = False) -> list[np.ndarray]:
        """Split the caption indices into batches of about `size`, each caption once. With `rng`, shuffle them first.

        With `by_image`, all captions of an image are in one batch, so that the image's features are projected once.
        """
        items = len(self)
        if by_image:
            _, starts, counts = np.unique(self.image_index, return_index=True, return_counts=True)
            items, size = len(starts), max(1, round(size * len(starts) / len(self)))
        order = np.arange(items) if rng is None else rng.permutation(items)
        batches = np.split(order, range(size, items, size))
        if by_image:
            return [np.concatenate([np.arange(counts[i]) + starts[i] for i in images]) for images in batches]
        return batches


def caption_set(references: Iterable[Sequence[Sequence[str]]], vocabulary: Vocabulary, max_length: int) -> CaptionSet:
    """Encode the captions (token lists) of each image, in the order of the images' features."""
    references = list(references)
    counts = [len(captions) for captions in references]
    longest = min(max_length, max(map(len, chain.from_iterable(references)), default=0))
    token_ids = np.full((sum(counts), longest + 2), PAD, dtype=np.int32)  # 2 for <start> and <end>
    lengths = np.empty(len(token_ids), dtype=np.int64)
    for row, tokens in enumerate(chain.from_iterable(references)):
        caption = vocabulary.encode(tokens, max_length)
        token_ids[row, : len(caption)], lengths[row] = caption, len(caption)
    return CaptionSet(torch.from_numpy(token_ids), lengths, np.repeat(np.arange(len(counts)), counts))
