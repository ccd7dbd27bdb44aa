"""Solutions of the exercises in docs/exercises that lib/ does not have in the same form: loss, search and BLEU."""

from collections import Counter
from math import exp, prod

import torch


def temporal_softmax_loss(x, y, mask):
    N, T, _ = x.shape
    shifted = x - x.amax(2, keepdim=True)
    probs = shifted.exp() / shifted.exp().sum(2, keepdim=True)
    n, t = torch.arange(N)[:, None], torch.arange(T)
    loss = -(probs[n, t, y].log() * mask).sum() / N
    dx = probs.clone()
    dx[n, t, y] -= 1
    return loss, dx * mask[:, :, None] / N


def greedy_search(step, state, start, end, max_length):
    tokens = []
    token = start
    while len(tokens) < max_length:
        log_probs, state = step(token, state)
        token = int(log_probs.argmax())
        tokens.append(token)
        if token == end:
            break
    return tokens


def beam_search(step, state, start, end, beam_size, max_length):
    beam = [([], 0.0, state)]
    for _ in range(max_length):
        candidates = []
        for tokens, total, state in beam:
            if end in tokens:
                candidates.append((tokens, total, state))
                continue
            log_probs, new_state = step(tokens[-1] if tokens else start, state)
            for token, log_prob in enumerate(log_probs.tolist()):
                candidates.append(([*tokens, token], total + log_prob, new_state))
        beam = sorted(candidates, key=lambda candidate: candidate[1], reverse=True)[:beam_size]
    return [(tokens, total) for tokens, total, _ in beam]


def bleu(references, hypotheses):
    def ngrams(tokens, n):
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    matches, totals, c, r = [0] * 4, [0] * 4, 0, 0
    for image, tokens in hypotheses.items():
        c += len(tokens)
        lengths = [len(reference) for reference in references[image]]
        r += min(lengths, key=lambda length: (abs(length - len(tokens)), length))
        for n in (1, 2, 3, 4):
            most = Counter()
            for reference in references[image]:
                most |= ngrams(reference, n)
            matches[n - 1] += (ngrams(tokens, n) & most).total()
            totals[n - 1] += ngrams(tokens, n).total()
    precisions = [match / total for match, total in zip(matches, totals, strict=True)]
    penalty = exp(1 - r / c) if c < r else 1.0
    return [penalty * prod(precisions[:n]) ** (1 / n) for n in (1, 2, 3, 4)]
