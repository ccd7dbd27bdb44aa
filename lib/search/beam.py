"""Beam search: keep the best few hypotheses of each image at every step, for all images of a batch at once."""

import torch
from torch import Tensor

from lib.model.decoding import CaptionModel, Constrain, Hypothesis, to_hypotheses
from lib.text.vocabulary import END, PAD, START


@torch.inference_mode()
def beam_search(
    model: CaptionModel, features: Tensor, beam_size: int, max_length: int, length_penalty: float, constrain: Constrain
) -> list[list[Hypothesis]]:
    """Return up to `beam_size` hypotheses per image, the best first, at least one. features (N, P, C) -> N lists.

    The score of a hypothesis is log_prob / length ** length_penalty; the length includes <end> (Wu et al. 2016, without
    their constant). A penalty of 0 ranks by probability, which favours short captions; 1 ranks by the mean over the
    tokens. A finished hypothesis stays in the beam with its score until better ones replace it. After `max_length`
    tokens the search stops, and hypotheses without <end> are returned too.
    """
    images, device = len(features), features.device
    state = model.init_state(features)
    # Shapes: N images, B hypotheses per image (1 at first), K candidates per hypothesis, T steps so far.
    log_probs = torch.zeros(images, 1, device=device)  # (N, B)
    lengths = torch.zeros_like(log_probs)  # (N, B)
    finished = torch.zeros_like(log_probs, dtype=torch.bool)  # (N, B)
    last_tokens = torch.full_like(log_probs, START, dtype=torch.long)  # (N, B)
    tokens = last_tokens.new_empty(images, 1, 0)  # (N, B, T)
    backpointers = torch.empty_like(tokens)  # (N, B, T): at t, the index that the ancestor had before step t
    attention = []  # T tensors (N, B, P), for the hypotheses before step t
    for _ in range(max_length):
        beams = last_tokens.shape[1]
        step_log_probs, state = model.step(last_tokens.flatten(), state)  # (NB, V)
        attention.append(state.attention_weights.unflatten(0, (images, beams)))  # (N, B, P)
        step_log_probs = constrain(step_log_probs, tokens.flatten(0, 1))
        # At most `beam_size` candidates of one hypothesis can be among the best `beam_size` of all.
        best = step_log_probs.topk(min(beam_size, step_log_probs.shape[1]), dim=1)
        candidate_log_probs, candidate_tokens = (part.unflatten(0, (images, beams)) for part in best)  # (N, B, K)
        # A finished hypothesis has one candidate: <pad>, with log-probability 0.
        candidate_log_probs.masked_fill_(finished[:, :, None], float("-inf"))[:, :, 0].masked_fill_(finished, 0.0)
        candidate_tokens.masked_fill_(finished[:, :, None], PAD)
        candidate_log_probs = log_probs[:, :, None] + candidate_log_probs  # sum over all tokens so far
        lengths = lengths + ~finished
        scores = candidate_log_probs / lengths[:, :, None] ** length_penalty  # (N, B, K)
        candidates = scores.shape[2]
        chosen = scores.flatten(1).topk(min(beam_size, beams * candidates), dim=1).indices  # (N, new B), best first
        parents = chosen // candidates  # (N, new B)
        last_tokens = candidate_tokens.flatten(1).gather(1, chosen)
        log_probs, lengths = candidate_log_probs.flatten(1).gather(1, chosen), lengths.gather(1, parents)
        rows = parents[:, :, None]
        tokens = torch.cat([tokens.take_along_dim(rows, 1), last_tokens[:, :, None]], dim=2)
        backpointers = torch.cat([backpointers.take_along_dim(rows, 1), rows], dim=2)
        finished = finished.gather(1, parents) | (last_tokens == END)
        if finished.all():
            break
        first_row = torch.arange(images, device=device)[:, None] * beams  # (N, 1): first row of each image in the state
        state = state.select((first_row + parents).flatten())
    beams = last_tokens.shape[1]
    weights = [part.take_along_dim(backpointers[:, :, t : t + 1], 1) for t, part in enumerate(attention)]  # (N, B, P)
    hypotheses = to_hypotheses(tokens.flatten(0, 1), log_probs.flatten(), torch.stack(weights, dim=2).flatten(0, 1))
    # If there are fewer possible captions than beams, the rest of the beam is impossible captions, at -inf. Drop them.
    return [
        [hypotheses[i], *(other for other in hypotheses[i + 1 : i + beams] if other.log_prob > float("-inf"))]
        for i in range(0, images * beams, beams)
    ]
