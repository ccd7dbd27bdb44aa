"""Additive attention (Bahdanau et al. 2015; over the regions of a picture, Xu et al. 2015).

For each step t, every region p gets a score against the decoder's hidden vector h_t, and the context is the
mean of the regions' values, weighted by the softmax of the scores:

    e_tp = w . tanh(k_p + W h_t)      a_t = softmax_p(e_t)      context_t = sum_p a_tp v_p

Keys k_p and values v_p are linear in the region's features r_p plus a vector learned for its place: features
do not say where they lie, and captions do. They are made once per picture, not once per word.
"""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Attends to P regions of C features each. Keys and values have H numbers, as the hidden vectors do."""

    def __init__(self, places: int, channels: int, hidden_size: int):
        super().__init__()
        self.place = nn.Parameter(0.1 * torch.randn(places, channels))  # not all alike, or none could be told apart
        self.key = nn.Linear(channels, hidden_size)
        self.value = nn.Linear(channels, hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def regions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (N, P, C) -> keys (N, P, H), values (N, P, H)."""
        placed = features + self.place
        return self.key(placed), self.value(placed)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """h (N, T, H), keys and values (N, P, H) -> contexts (N, T, H), weights (N, T, P)."""
        joined = torch.tanh(keys[:, None] + self.query(h)[:, :, None])  # (N, T, P, H)
        weights = torch.softmax(self.score(joined).squeeze(-1), dim=-1)  # (N, T, P)
        return weights @ values, weights
