"""Additive attention (Bahdanau et al. 2015; over image regions, Xu et al. 2015).

For each step t, every region p of the picture gets a score against the decoder's hidden vector h_t, and the
context is the mean of the regions' values, weighted by the softmax of the scores:

    e_tp = w . tanh(k_p + W h_t)      a_t = softmax_p(e_t)      context_t = sum_p a_tp v_p

The keys k_p, made from the values v_p, are the same for every word: they are made once per picture.
"""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Attends to the P regions of a picture. The values have H numbers, as many as the hidden vectors."""

    def __init__(self, hidden_size: int, attention_size: int):
        super().__init__()
        self.key = nn.Linear(hidden_size, attention_size)
        self.query = nn.Linear(hidden_size, attention_size, bias=False)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """h (N, T, H), keys = self.key(values) (N, P, A), values (N, P, H) -> contexts (N, T, H), weights (N, T, P)."""
        joined = torch.tanh(keys[:, None] + self.query(h)[:, :, None])  # (N, T, P, A)
        weights = torch.softmax(self.score(joined).squeeze(-1), dim=-1)  # (N, T, P)
        return weights @ values, weights
