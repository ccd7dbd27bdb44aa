"""Additive attention (Bahdanau et al. 2015; over image regions, Xu et al. 2015).

For each step t, every region p of the picture gets a score against the decoder's hidden vector h_t, and the
context is the mean of the regions' values, weighted by the softmax of the scores:

    e_tp = w . tanh(k_p + W h_t)      a_t = softmax_p(e_t)      context_t = sum_p a_tp v_p

Keys k_p and values v_p are linear in the region's features, plus a vector learned for its place: the features
themselves do not say where they lie. They are made once per picture, not once per word.
"""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Attends to the P regions of a picture, of C features each; keys have A numbers, values as many as h."""

    def __init__(self, places: int, channels: int, hidden_size: int, attention_size: int):
        super().__init__()
        self.key = nn.Linear(channels, attention_size)
        self.value = nn.Linear(channels, hidden_size)
        self.key_place = nn.Parameter(torch.zeros(places, attention_size))
        self.value_place = nn.Parameter(torch.zeros(places, hidden_size))
        self.query = nn.Linear(hidden_size, attention_size, bias=False)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def regions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (N, P, C) -> keys (N, P, A), values (N, P, H)."""
        return self.key(features) + self.key_place, self.value(features) + self.value_place

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """h (N, T, H), keys (N, P, A), values (N, P, H) -> contexts (N, T, H), weights (N, T, P)."""
        joined = torch.tanh(keys[:, None] + self.query(h)[:, :, None])  # (N, T, P, A)
        weights = torch.softmax(self.score(joined).squeeze(-1), dim=-1)  # (N, T, P)
        return weights @ values, weights
