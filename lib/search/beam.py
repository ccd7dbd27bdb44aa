"""Beam search: the few most promising captions are kept at each step, all images at once."""

import torch
from torch import Tensor

from lib.model.decoding import AnyState, Hypothesis, Model, to_hypotheses
from lib.search.constraints import NO_CONSTRAINTS, DecodingConstraints
from lib.text.vocabulary import END, PAD, START


@torch.inference_mode()
def beam_search(
    model: Model[AnyState],
    features: Tensor,
    beam_size: int,
    max_length: int,
    length_penalty: float,
    rules: DecodingConstraints = NO_CONSTRAINTS,
) -> list[list[Hypothesis]]:
    """Up to `beam_size` captions of each image, the best first. features (N, P, C) -> N lists, none of them empty.

    Captions are ranked by their log-probability over length ** `length_penalty` (Wu et al. 2016, without the
    constant), where the end counts as a word: 0 ranks by probability, which favours short ones, 1 by the mean over
    the words. A caption that has ended stays in its beam with the score it has, until better ones push it out. One
    that has not ended after `max_length` words is given as it stands.
    """
    images, device = len(features), features.device
    state = model.init_state(features)
    # B beams, one at first: log-probability, length with <end>, whether it ended, its words so far and the newest.
    total = torch.zeros(images, 1, device=device)  # (N, B)
    length = torch.zeros_like(total)
    ended = torch.zeros_like(total, dtype=torch.bool)
    words = torch.full_like(total, START, dtype=torch.long)
    written = words.new_empty(images, 1, 0)  # (N, B, T)
    came = torch.empty_like(written)  # (N, B, T): which of the beams before step t it comes from
    looked = []  # T of (N, B, P); what each caption looked at is put together at the end, from where it came
    for _ in range(max_length):
        beams = words.shape[1]
        log_p, state = model.step(words.flatten(), state)  # (NB, V)
        looked.append(state.attention_weights.unflatten(0, (images, beams)))  # (N, B, P)
        log_p = rules.apply(log_p, written.flatten(0, 1))
        # No more than K of the ways on from one beam can be among the K best of all.
        ways, following = log_p.topk(min(beam_size, log_p.shape[1]), dim=1)
        ways, following = (part.unflatten(0, (images, beams)) for part in (ways, following))  # (N, B, K)
        # A beam that has ended has one way on: <pad>, at no cost.
        ways.masked_fill_(ended[:, :, None], float("-inf"))[:, :, 0].masked_fill_(ended, 0.0)
        following.masked_fill_(ended[:, :, None], PAD)
        sums = total[:, :, None] + ways
        lengths = length + ~ended  # (N, B)
        ranks = sums / lengths[:, :, None] ** length_penalty
        best = ranks.flatten(1).topk(min(beam_size, beams * ways.shape[2]), dim=1).indices  # (N, K), the best first
        beam, words = best // ways.shape[2], following.flatten(1).gather(1, best)
        total, length = sums.flatten(1).gather(1, best), lengths.gather(1, beam)
        written = torch.cat([_of_beams(written, beam), words[:, :, None]], dim=2)
        came = torch.cat([_of_beams(came, beam), beam[:, :, None]], dim=2)
        ended = ended.gather(1, beam) | (words == END)
        if ended.all():  # then no step can change anything any more
            break
        first_of_image = torch.arange(images, device=device)[:, None] * beams  # (N, 1)
        state = state.select((first_of_image + beam).flatten())
    beams = words.shape[1]
    weights = [_of_beams(then, beam) for then, beam in zip(looked, came.unbind(dim=2), strict=True)]  # T of (N, B, P)
    captions = to_hypotheses(written.flatten(0, 1), total.flatten(), torch.stack(weights, dim=2).flatten(0, 1))
    # Where there are fewer captions than beams, those at the end have a log-probability of -inf and stand for nothing.
    return [
        [captions[first], *(other for other in captions[first + 1 : first + beams] if other.log_prob > float("-inf"))]
        for first in range(0, images * beams, beams)
    ]


def _of_beams(values: Tensor, beam: Tensor) -> Tensor:
    """values (N, B, M) of the beams `beam` (N, K): (N, K, M)."""
    return values.gather(1, beam[:, :, None].expand(-1, -1, values.shape[2]))
