"""Beam search: the few most promising captions are kept at each step, all images at once."""

import torch
from torch import Tensor

from lib.captioner.decoder import Decoder
from lib.text.vocabulary import END, PAD, START


@torch.inference_mode()
def beam_search(
    decoder: Decoder, features: Tensor, beam_size: int, max_length: int, length_penalty: float
) -> list[list[int]]:
    """The best of `beam_size` captions kept at each step. features (N, P, C) -> N lists of ids.

    Captions are ranked by their log-probability over (words + 1) ** `length_penalty` (Wu et al. 2016, without
    the constant): 0 ranks by probability, which favours short ones, 1 by the mean over the words. A caption
    that has ended stays in its beam with the score it has, until better ones push it out.
    """
    images, device = len(features), features.device
    state = decoder.start(features)
    log_p, state = decoder.step(torch.full((images,), START, device=device), state)
    vocabulary = log_p.shape[1]
    beam_size = min(beam_size, vocabulary)
    total, words = log_p.topk(beam_size, dim=1)  # (N, K): log-probability of each beam, its newest word
    captions = words[:, :, None]  # (N, K, T)
    length = torch.ones_like(words)  # counts <end>
    ended = words == END
    first_of_image = torch.arange(images, device=device)[:, None] * beam_size  # (N, 1)
    state = state.select(torch.arange(images, device=device).repeat_interleave(beam_size))
    for _ in range(max_length - 1):
        if ended.all():
            break
        log_p, state = decoder.step(words.flatten(), state)  # (NK, V)
        # A beam that has ended has one way on: <pad>, at no cost.
        log_p[ended.flatten()] = float("-inf")
        log_p[ended.flatten(), PAD] = 0.0
        sums = total[:, :, None] + log_p.view(images, beam_size, vocabulary)  # (N, K, V)
        lengths = length + ~ended  # (N, K)
        ranks = sums / lengths[:, :, None] ** length_penalty
        best = ranks.flatten(1).topk(beam_size, dim=1).indices  # (N, K)
        beam, words = best // vocabulary, best % vocabulary
        total, length = sums.flatten(1).gather(1, best), lengths.gather(1, beam)
        captions = torch.cat([captions.gather(1, beam[:, :, None].expand_as(captions)), words[:, :, None]], dim=2)
        ended = ended.gather(1, beam) | (words == END)
        state = state.select((first_of_image + beam).flatten())
    winner = (total / length**length_penalty).argmax(dim=1)  # (N,)
    chosen = captions[torch.arange(images, device=device), winner]  # (N, T)
    return chosen.tolist()
