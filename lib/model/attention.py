"""Additive attention (Bahdanau et al. 2015; over the regions of an image, Xu et al. 2015).

For each step t, each region p gets a score against the decoder's hidden vector h_t. The context is the mean of the
regions' values, weighted by the softmax of the scores:

    e_tp = w . tanh(k_p + W h_t)      a_t = softmax_p(e_t)      context_t = sum_p a_tp v_p

Keys k_p and values v_p are linear in the sum of the region's features r_p and a learned vector of its position. This
vector is needed because features do not contain the position, but captions mention it. Keys and values are computed
once per image, not once per caption or word.

The T x P x H tanh values of the scores take most of the time. Since tanh(z) = 2 sigmoid(2z) - 1, and a softmax ignores
a constant, e_tp = 2w . sigmoid(2k_p + 2W h_t) gives the same weights, and a sigmoid is faster. The sigmoids are
computed for a few captions at a time, so that they stay in the CPU's cache. The backward pass computes them again, so
they are not stored. With s = sigmoid(z), it needs only s and sigmoid'(z) = s - s^2.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.model.layers import Linear

_CHUNK = {"cpu": 2**19}  # sigmoids per chunk; 2 MB fit in the cache of a CPU core
_GPU_CHUNK = 2**27


class AdditiveAttention(nn.Module):
    """Additive attention to P regions of C features each. Keys, values and hidden vectors have H features."""

    def __init__(self, num_regions: int, feature_size: int, hidden_size: int):
        super().__init__()
        self.position = nn.Parameter(0.1 * torch.randn(num_regions, feature_size))  # random, so that positions differ
        self.key = Linear(feature_size, hidden_size)
        self.value = Linear(feature_size, hidden_size)
        self.query = Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def regions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return doubled keys 2k (I, P, H) and values (I, P, H) for the features (I, P, C) of I images."""
        # W (r + p) = W r + W p. So the gradient of the positions p needs no product over all images.
        keys, values = (layer(features) + layer.product(self.position) for layer in (self.key, self.value))
        return 2 * keys, values

    def forward(self, h: Tensor, keys: Tensor, values: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts (N, T, H) and weights (N, T, P).

        h (N, T, H), keys and values (I, P, H) of `regions`, image_index (N,): the image of each caption.
        """
        queries, w = 2 * self.query(h), 2 * self.score.weight[0]
        if len(keys) == 1:  # all captions are of one image: treat their steps as those of one caption
            queries = queries.flatten(0, 1)[None]  # (1, N T, H)
        else:
            keys, values = keys.index_select(0, image_index), values.index_select(0, image_index)
        score = _Scores.apply if torch.is_grad_enabled() else _scores
        weights = torch.softmax(score(keys, queries, w.to(queries.dtype)), dim=-1)
        return (weights @ values).view(h.shape), weights.view(*h.shape[:2], keys.shape[1])


def _scores(keys: Tensor, queries: Tensor, w: Tensor) -> Tensor:
    """Return w . sigmoid(k_p + q_t), (N, T, P), for keys (N, P, H), queries (N, T, H) and w (H,)."""
    return torch.cat([_sigmoids(k, q) @ w for k, q in _chunks(keys, queries)])


class _Scores(torch.autograd.Function):
    """Computes `_scores`, with a gradient."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, queries: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(keys, queries, w)
        return _scores(keys, queries, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, de: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, queries, w = ctx.saved_tensors
        dkeys, dqueries, dw = torch.empty_like(keys), torch.empty_like(queries), torch.zeros_like(w)
        for k, q, dk, dq, de_part in _chunks(keys, queries, dkeys, dqueries, de):
            s = _sigmoids(k, q)  # (n, T, P, H)
            dw += de_part.flatten() @ s.flatten(0, 2)
            ds = s.addcmul_(s, s, value=-1).mul_(de_part[..., None])  # gradient of k_p + q_t, divided by w
            torch.sum(ds, 1, out=dk)
            torch.sum(ds, 2, out=dq)
        return dkeys.mul_(w), dqueries.mul_(w), dw


def _sigmoids(keys: Tensor, queries: Tensor) -> Tensor:
    """Return sigmoid(k_p + q_t), (n, T, P, H), for keys (n, P, H) and queries (n, T, H)."""
    return (keys[:, None] + queries[:, :, None]).sigmoid_()


def _chunks(keys: Tensor, queries: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of N captions into parts of as many captions as have `_CHUNK` sigmoids."""
    per_caption = keys.shape[1] * queries.shape[1:].numel()  # sigmoids
    captions = max(1, _CHUNK.get(keys.device.type, _GPU_CHUNK) // max(1, per_caption))
    return zip(*(tensor.split(captions) for tensor in (keys, queries, *others)), strict=True)
