"""Greedy search: the likeliest word at each step."""

import torch
from torch import Tensor

from lib.captioner.decoder import Decoder
from lib.text.vocabulary import END, START


@torch.inference_mode()
def greedy(decoder: Decoder, features: Tensor, max_length: int) -> list[list[int]]:
    """The likeliest word at each step. features (N, P, C) -> N lists of ids, up to and with <end>."""
    state = decoder.start(features)
    words = torch.full((len(features),), START, device=features.device)
    ended = torch.zeros_like(words, dtype=torch.bool)
    written = []
    for _ in range(max_length):
        log_p, state = decoder.step(words, state)
        words = log_p.argmax(dim=1)  # (N,)
        written.append(words)
        ended |= words == END
        if ended.all():
            break
    return torch.stack(written, dim=1).tolist()
