"""Greedy search: the likeliest word at each step."""

import torch
from torch import Tensor

from lib.model.decoding import AnyState, Caption, Model, word_by_word
from lib.search.constraints import NO_RULES, Rules
from lib.text.vocabulary import START


@torch.inference_mode()
def greedy(model: Model[AnyState], features: Tensor, max_length: int, rules: Rules = NO_RULES) -> list[Caption]:
    """The likeliest word at each step, at most `max_length` of them. features (N, P, C) -> N captions."""
    words = torch.full((len(features),), START, device=features.device)
    state = model.start(features)
    # topk, as in beam search, so that a tie falls as it does in a beam of one.
    return word_by_word(model, words, state, max_length, rules, lambda log_p, _: log_p.topk(1, dim=1).indices[:, 0])
