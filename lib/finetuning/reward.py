"""The reward of a caption: its CIDEr-D against the references of an image.

Both are in the vocabulary's spelling ("€", not the "$" of coco-caption). The end of a caption counts as a token, in
captions and references alike, so an unfinished caption scores less.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lib.model.decoding import Hypothesis
from lib.scoring.cider import CiderD
from lib.text.vocabulary import END, SPECIALS, Vocabulary

_END = SPECIALS[END]


class CiderReward:
    """CIDEr-D with the document frequencies of the train split."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary):
        """`references` holds the token lists of each image of the train split."""
        self._references, self._vocabulary = references, vocabulary

    @cached_property
    def _cider(self) -> CiderD:
        # Lazy, because counting COCO's n-grams takes half a minute.
        return CiderD([[[*tokens, _END] for tokens in captions] for captions in self._references])

    def __call__(self, images: Sequence[int] | np.ndarray, captions: Sequence[Hypothesis]) -> Tensor:
        """Return the reward, 0 to 10, of captions[n] for images[n]. Its shape is that of `images`: (N,) or (N, K)."""
        return torch.from_numpy(self._cider.scores(images, self._tokens(captions))).float()

    def weighted_sums(self, images: np.ndarray, weights: np.ndarray, captions: Sequence[Hypothesis]) -> np.ndarray:
        """Return for each caption the sum over images (K,) of its reward times `weights` (K,), (captions,)."""
        return self._cider.weighted_sums(images, weights, self._tokens(captions))

    def _tokens(self, captions: Sequence[Hypothesis]) -> list[list[str]]:
        return [self._vocabulary.decode(c.token_ids) + [_END] * (c.token_ids[-1] == END) for c in captions]
