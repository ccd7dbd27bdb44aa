"""How much a caption that a model has written resembles what people said of a picture: CIDEr-D.

The end of a caption counts as a word, in the captions and the references alike: one that breaks off in mid-sentence is
not yet like theirs.
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
    """CIDEr-D, with the document frequencies of the train split, whatever the batch."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary):
        """`references` of each image of the train split, as tokens."""
        self._references, self._vocabulary = references, vocabulary

    @cached_property
    def _cider(self) -> CiderD:
        # Counting takes half a minute for COCO, so it waits until somebody asks.
        return CiderD([[[*tokens, _END] for tokens in captions] for captions in self._references])

    def __call__(self, images: Sequence[int] | np.ndarray, captions: Sequence[Hypothesis]) -> Tensor:
        """How much captions[n] resembles image images[n] of the split, (N,), 0 to 10; or each of K, (N, K)."""
        tokens = [self._vocabulary.decode(c.token_ids) + [_END] * (c.token_ids[-1] == END) for c in captions]
        return torch.from_numpy(self._cider.scores(images, tokens)).float()
