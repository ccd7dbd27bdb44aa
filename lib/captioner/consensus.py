"""Consensus reranking: of the captions in the beam, the one most like what people said of the most similar pictures.

A caption c, of n words with its end, is ranked by

    log p(c) / n ** length_penalty  +  weight * mean over pictures j of CIDEr-D(c, the captions of j),

where j runs over those pictures of the train split that the CNN finds most like this one. The nearest neighbours know
what is usually said of such a picture, the decoder what fits this one (Devlin et al. 2015, "Exploring nearest neighbor
approaches for image captioning"; Mao et al. 2015, "Deep captioning with multimodal recurrent neural networks", who
rerank the captions of an RNN like this).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.captioner.resemblance import Resemblance
from lib.captioner.writing import Caption
from lib.text.vocabulary import Vocabulary
from lib.vision.features import Features

_READ = 2048  # images at a time, so that grids are never in memory whole


class Consensus:
    """Knows the train split: a vector for each picture, (I, C) float32, and its captions."""

    def __init__(
        self,
        features: Features,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        neighbours: int,
        weight: float,
    ):
        """The features of the train split and, in the same order, each picture's captions as tokens.

        So many `neighbours`, or all pictures where there are fewer, are asked.
        """
        self._resembles = Resemblance(references, vocabulary)
        self._neighbours, self._weight = min(neighbours, len(features)), weight
        vectors = torch.cat([_vectors(part) for part in features.split(_READ)])
        self._mean, self._scale = vectors.mean(dim=0), 1 / vectors.std(dim=0).clamp_min(1e-3)  # (C,)
        self._directions = self._direction(vectors)

    def rerank(
        self, features: Tensor, beams: Sequence[Sequence[Caption]], length_penalty: float
    ) -> list[list[Caption]]:
        """The captions of each of N pictures, the best first. features (N, P, C)."""
        likeness = self._direction(_vectors(features)) @ self._directions.T  # (N, I), cosines
        nearest = likeness.topk(self._neighbours, dim=1).indices.tolist()  # (N, neighbours)
        return [self._ranked(near, beam, length_penalty) for near, beam in zip(nearest, beams, strict=True)]

    def _ranked(self, near: list[int], beam: Sequence[Caption], length_penalty: float) -> list[Caption]:
        asked = self._resembles(near * len(beam), [caption for caption in beam for _ in near])
        agreed = asked.view(len(beam), len(near)).mean(dim=1).tolist()
        ranks = [c.log_p / len(c.ids) ** length_penalty + self._weight * a for c, a in zip(beam, agreed, strict=True)]
        return [beam[place] for place in sorted(range(len(beam)), key=ranks.__getitem__, reverse=True)]

    def _direction(self, vectors: Tensor) -> Tensor:
        return torch.nn.functional.normalize((vectors - self._mean) * self._scale, dim=1)


def _vectors(features: Tensor) -> Tensor:
    """features (N, P, C) -> their means over the places, (N, C)."""
    return features.float().mean(dim=1).cpu()
