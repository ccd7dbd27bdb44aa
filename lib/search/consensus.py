"""Consensus reranking: of the captions in the beam, the one most like what people said of the most similar pictures.

A caption c, of n words with its end, is ranked by

    log p(c) / n ** length_penalty  +  weight * mean over pictures j of CIDEr-D(c, the captions of j),

where j runs over the pictures of the train split whose features are most like this one's: whose means over the places,
standardised, have the greatest cosines with its own. The neighbours know what is usually said of such a picture, the
decoder what fits this one (Devlin et al. 2015, "Exploring nearest neighbor approaches for image captioning"; Mao et al.
2015, "Deep captioning with multimodal recurrent neural networks", who rerank what an RNN has written).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.features.store import Features
from lib.finetuning.reward import CiderReward
from lib.model.decoding import Hypothesis
from lib.text.vocabulary import Vocabulary

_READ = 2048  # images at a time, so that grids are never in memory whole
_LEAST = 1e-3  # the least spread that a channel is scaled up from


class Consensus:
    """Knows the train split: the direction of each picture's features, (I, C) float32, and its captions."""

    def __init__(
        self,
        features: Features | Tensor,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        neighbours: int,
        weight: float,
    ):
        """The features of the train split and, in the same order, each picture's captions as tokens.

        So many `neighbours`, at least one, are asked; all pictures where there are fewer.
        """
        self._resembles = CiderReward(references, vocabulary)
        self._neighbours, self._weight = min(neighbours, len(features)), weight
        means = torch.empty(len(features), features.shape[2])
        for known, part in zip(means.split(_READ), features.split(_READ), strict=True):
            known.copy_(_means(part))
        # What all pictures have in common, and the channels that are large in all, would drown what sets one apart.
        self._centre, self._scale = means.mean(dim=0), means.std(dim=0, correction=0).clamp_min(_LEAST)
        self._known = self._directions(means)

    def rerank(
        self, features: Tensor, beams: Sequence[Sequence[Hypothesis]], length_penalty: float
    ) -> list[list[Hypothesis]]:
        """The captions of each of N pictures, the best first. features (N, P, C)."""
        cosines = self._directions(_means(features)) @ self._known.T  # (N, I)
        nearest = cosines.topk(self._neighbours, dim=1).indices.numpy()  # (N, neighbours)
        return [self._ranked(near, beam, length_penalty) for near, beam in zip(nearest, beams, strict=True)]

    def _ranked(self, near: np.ndarray, beam: Sequence[Hypothesis], length_penalty: float) -> list[Hypothesis]:
        agreed = self._resembles(np.tile(near, (len(beam), 1)), beam).mean(dim=1).tolist()
        ranks = [
            c.log_prob / len(c.token_ids) ** length_penalty + self._weight * a
            for c, a in zip(beam, agreed, strict=True)
        ]
        return [beam[place] for place in sorted(range(len(beam)), key=ranks.__getitem__, reverse=True)]

    def _directions(self, means: Tensor) -> Tensor:
        """means (N, C) -> standardised and at a length of 1, in place."""
        return normalize(means.sub_(self._centre).div_(self._scale), dim=1, out=means)


def _means(features: Tensor) -> Tensor:
    """features (N, P, C) -> their means over the places, (N, C), on the CPU."""
    return features.float().mean(dim=1).cpu()
