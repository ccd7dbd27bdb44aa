"""Additive attention (Bahdanau et al. 2015; over the regions of a picture, Xu et al. 2015).

For each step t, every region p gets a score against the decoder's hidden vector h_t, and the context is the
mean of the regions' values, weighted by the softmax of the scores:

    e_tp = w . tanh(k_p + W h_t)      a_t = softmax_p(e_t)      context_t = sum_p a_tp v_p

Keys k_p and values v_p are linear in the region's features r_p plus a vector learned for its place: features
do not say where they lie, and captions do. They are made once per picture, not once per caption or word.

The scores are most of the work: T P H hyperbolic tangents a caption, 300,000 of them for twelve words and 7 x 7
places. Since tanh(z) = 2 sigmoid(2z) - 1, and a softmax does not see a constant, e_tp = 2w . sigmoid(2k_p + 2W h_t)
gives the same weights, and a sigmoid takes a fifth of the time. They are made a few captions at a time, in memory
that stays in the processor's cache, and made again in the backward pass instead of kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.model.linear import Linear

_AT_ONCE = {"cpu": 2**18}  # numbers in the working memory: those that fit a core's cache
_AT_ONCE_ELSEWHERE = 2**27


class AdditiveAttention(nn.Module):
    """Attends to P regions of C features each. Keys and values have H numbers, as the hidden vectors do."""

    def __init__(self, places: int, channels: int, hidden_size: int):
        super().__init__()
        self.place = nn.Parameter(0.1 * torch.randn(places, channels))  # not all alike, or none could be told apart
        self.key = Linear(channels, hidden_size)
        self.value = Linear(channels, hidden_size)
        self.query = Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def regions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (I, P, C), each picture once -> keys (I, P, H), values (I, P, H)."""
        placed = features + self.place
        return self.key(placed), self.value(placed)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """h (N, T, H), keys and values (I, P, H), rows (N,): which picture each caption is of.

        Returns contexts (N, T, H) and weights (N, T, P).
        """
        queries = self.query(h)
        scores = _Scores.apply(2 * keys, 2 * queries, 2 * self.score.weight[0].to(queries.dtype), rows)
        weights = torch.softmax(scores, dim=-1)  # (N, T, P)
        return weights @ values.index_select(0, rows), weights


class _Scores(torch.autograd.Function):
    """keys (I, P, H), queries (N, T, H), w (H,), rows (N,) -> w . sigmoid(k_p + q_t), (N, T, P)."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, queries: Tensor, w: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(keys, queries, w, rows)
        scores = queries.new_empty(*queries.shape[:2], keys.shape[1])
        for some, joined in _sigmoids(keys, queries, rows):
            torch.matmul(joined, w, out=scores[some])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dscores: Tensor) -> tuple[Tensor | None, ...]:
        keys, queries, w, rows = ctx.saved_tensors
        dkeys, dqueries, dw = torch.zeros_like(keys), torch.empty_like(queries), torch.zeros_like(w)
        for some, joined in _sigmoids(keys, queries, rows):
            ds = dscores[some]  # (n, T, P)
            dw += ds.flatten() @ joined.flatten(0, 2)
            dz = ds[..., None] * w  # (n, T, P, H)
            torch.ops.aten.sigmoid_backward.grad_input(dz, joined, grad_input=dz)
            torch.sum(dz, dim=2, out=dqueries[some])
            dkeys.index_add_(0, rows[some], dz.sum(dim=1))
        return dkeys, dqueries, dw, None


def _sigmoids(keys: Tensor, queries: Tensor, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A few captions at a time: which, and sigmoid(k_p + q_t), (n, T, P, H), in memory that the next ones reuse."""
    captions, steps, hidden = queries.shape
    each = steps * keys.shape[1] * hidden
    size = max(1, _AT_ONCE.get(queries.device.type, _AT_ONCE_ELSEWHERE) // each)
    memory = queries.new_empty(min(size, captions), steps, keys.shape[1], hidden)
    for first in range(0, captions, size):
        some = slice(first, min(first + size, captions))
        joined = memory[: some.stop - first]
        torch.add(keys.index_select(0, rows[some])[:, None], queries[some, :, None], out=joined)
        yield some, joined.sigmoid_()
