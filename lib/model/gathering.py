"""Captions that several processes have written, each its share, brought together."""

from collections.abc import Sequence

import torch

from lib.model.decoding import Caption
from lib.runtime.distributed import gather, world_size


def gather_captions(own: Sequence[Caption]) -> list[Caption]:
    """The captions of all processes, by rank."""
    if world_size() == 1:
        return list(own)
    lengths = gather(torch.tensor([len(caption.ids) for caption in own], dtype=torch.long)).tolist()
    ids = gather(torch.tensor([word for caption in own for word in caption.ids], dtype=torch.long))
    log_p = gather(torch.tensor([caption.log_p for caption in own], dtype=torch.double))
    looked = gather(torch.cat([torch.empty(0), *(caption.attention.flatten() for caption in own)]))
    places = len(looked) // max(1, len(ids))
    weights = looked.view(len(ids), places).split(lengths)
    return [
        Caption(words.tolist(), float(sum_), each)
        for words, sum_, each in zip(ids.split(lengths), log_p, weights, strict=True)
    ]
