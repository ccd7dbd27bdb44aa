"""Consensus reranking: prefer the hypothesis that people would write, judging by their captions of similar images.

A hypothesis h of n tokens, <end> counted, gets the score

    log p(h) / n ** length_penalty  +  weight * sum over neighbours j of a_j CIDEr-D(h, captions of j).

The neighbours are the train images whose features have the greatest cosine similarity to those of the image; features
are averaged over the regions and standardised. The sum predicts the CIDEr-D of h against the image's own captions, by
kernel ridge regression on the neighbours, with the kernel k(x, y) = exp(-|x - y|^2) of features x, y of length 1:

    a = (K + I)^-1 k(x),    K_ij = k(x_i, x_j),    k(x)_j = k(x, x_j).

So a close neighbour counts more than a distant one, and of two that resemble each other, each counts less.

Devlin et al. 2015, "Exploring nearest neighbor approaches for image captioning", and Mao et al. 2015, "Deep captioning
with multimodal recurrent neural networks", take the mean over the neighbours. On kernel ridge regression: Saunders et
al. 1998, "Ridge regression learning algorithm in dual variables".
"""

from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lib.features.store import Features
from lib.finetuning.reward import CiderReward
from lib.model.decoding import Hypothesis

_CHUNK = 2048  # images to read at a time, because all grid features may not fit in memory
# Lower limit of a channel's standard deviation: smaller ones are noise, and dividing by them would amplify it.
_MIN_STD = 1e-3


class Consensus:
    """Reranks hypotheses with the features and captions of the train split."""

    def __init__(self, features: Features | Tensor, reward: CiderReward, neighbours: int, weight: float):
        """Index the features (I, P, C) of the train split. `reward` holds its captions. `neighbours` is at least 1."""
        self._reward, self._weight, self._neighbours = reward, weight, min(neighbours, len(features))
        means = torch.empty(len(features), features.shape[2])  # (I, C); filled in place: 1 GB for COCO
        for rows, part in zip(means.split(_CHUNK), features.split(_CHUNK), strict=True):
            rows.copy_(_region_means(part))
        # Without standardisation, a few channels that are large in all images dominate every cosine.
        self._mean, self._std = means.mean(dim=0), means.std(dim=0, correction=0).clamp_min(_MIN_STD)
        self._train_directions = self._directions(means)  # (I, C)

    def rerank(self, features: Tensor, beams: list[list[Hypothesis]], length_penalty: float) -> list[list[Hypothesis]]:
        """Return the hypotheses of each of N images, the best first. features (N, P, C)."""
        directions = self._directions(_region_means(features))  # (N, C)
        # One product for all images, because each product reads all train images.
        neighbours = (directions @ self._train_directions.T).topk(self._neighbours, dim=1).indices  # (N, neighbours)
        reranked = []
        for direction, nearest, beam in zip(directions, neighbours, beams, strict=True):
            weights = _regression_weights(self._train_directions[nearest], direction)
            rewards = self._reward.weighted_sums(nearest.numpy(), weights.numpy(), beam).tolist()
            scored = [
                (h.log_prob / len(h.token_ids) ** length_penalty + self._weight * reward, h)
                for h, reward in zip(beam, rewards, strict=True)
            ]
            reranked.append([h for _, h in sorted(scored, key=itemgetter(0), reverse=True)])
        return reranked

    def _directions(self, means: Tensor) -> Tensor:
        """Standardise `means` (N, C) and scale each row to length 1, in place."""
        return normalize(means.sub_(self._mean).div_(self._std), dim=1, out=means)


def _regression_weights(known: Tensor, query: Tensor) -> Tensor:
    """Return the weights a of the module's formula, (K,), for directions `known` (K, C) and `query` (C,)."""
    kernel, kernel_query = torch.exp(2 * (known @ known.T - 1)), torch.exp(2 * (known @ query - 1))  # (K, K), (K,)
    kernel.diagonal().add_(1)
    return torch.cholesky_solve(kernel_query[:, None], torch.linalg.cholesky(kernel))[:, 0]


def _region_means(features: Tensor) -> Tensor:
    """Return the mean over the regions of features (N, P, C): (N, C) float32 on the CPU."""
    return features.float().mean(dim=1).cpu()
