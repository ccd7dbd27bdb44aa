"""Greedy search: the likeliest word at each step."""

import torch
from torch import Tensor

from lib.model.decoding import AnyState, Hypothesis, Model, decode_stepwise
from lib.text.vocabulary import START


@torch.inference_mode()
def greedy(model: Model[AnyState], features: Tensor, max_length: int) -> list[Hypothesis]:
    """Take the most probable token at each step, at most `max_length` of them. features (N, P, C) -> N hypotheses."""
    words = torch.full((len(features),), START, device=features.device)
    # topk, as in beam search, so that a tie is broken as in a beam of one.
    return decode_stepwise(
        model, words, model.init_state(features), max_length, lambda log_p, _: log_p.topk(1, dim=1).indices[:, 0]
    )
