"""Captions that several processes have written, each its share, brought together."""

from collections.abc import Sequence

import torch

from lib.model.decoding import Hypothesis
from lib.runtime.distributed import all_gather, world_size


def gather_hypotheses(own: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The captions of all processes, by rank."""
    if world_size() == 1:
        return list(own)
    lengths = all_gather(torch.tensor([len(caption.token_ids) for caption in own], dtype=torch.long)).tolist()
    ids = all_gather(torch.tensor([word for caption in own for word in caption.token_ids], dtype=torch.long))
    log_p = all_gather(torch.tensor([caption.log_prob for caption in own], dtype=torch.double))
    looked = all_gather(torch.cat([torch.empty(0), *(caption.attention.flatten() for caption in own)]))
    places = len(looked) // max(1, len(ids))
    weights = looked.view(len(ids), places).split(lengths)
    return [
        Hypothesis(words.tolist(), float(sum_), each)
        for words, sum_, each in zip(ids.split(lengths), log_p, weights, strict=True)
    ]
