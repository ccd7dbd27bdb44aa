"""Code that all decoding methods share: the model interface, hypotheses and the loop over steps. Also greedy search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lib.runtime.distributed import all_gather
from lib.text.vocabulary import END, PAD, START


class CaptionModel(Protocol):
    """A model that decoding methods can use: a `Decoder`, or an `Ensemble` of several.

    The state of N captions has the tensor `attention_weights` of the last step, (N, P), or (N, 0) without attention.
    Its method `select(rows)` returns the state of the captions `rows` (M,). Rows may repeat.
    """

    def init_state(self, features: Tensor) -> Any:
        """Return the state before the first token. features (N, P, C)."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read tokens (N,). Return log_probs (N, V), which the caller may overwrite, and the new state."""


# (log_probs (M, V), tokens so far (M, T)) -> log_probs (M, V) with forbidden tokens at -inf. May work in place.
Constrain = Callable[[Tensor, Tensor], Tensor]
Choose = Callable[[Tensor, int], Tensor]  # (log_probs (N, V), index of the step) -> chosen tokens (N,)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A decoded caption of T tokens."""

    token_ids: list[int]  # ends with <end>, unless the maximum length was reached first; no other special tokens
    log_prob: float  # log-probability by the model in nats, including <end>
    attention: Tensor  # (T, P) on the CPU: the attention weights for each token; (T, 0) without attention


def to_hypotheses(tokens: Tensor, log_probs: Tensor, attention: Tensor) -> list[Hypothesis]:
    """Convert M padded captions to hypotheses. tokens (M, T), log_probs (M,), attention (M, T, P)."""
    lengths = (tokens != PAD).sum(dim=1).tolist()  # <pad> occurs only after <end>
    rows = zip(tokens.tolist(), log_probs.tolist(), attention.cpu(), lengths, strict=True)
    return [Hypothesis(ids[:length], log_prob, weights[:length]) for ids, log_prob, weights, length in rows]


def decode_stepwise(
    model: CaptionModel, state: Any, max_length: int, choose: Choose, constrain: Constrain | None = None
) -> list[Hypothesis]:
    """Decode N captions, one token per step, from the state before the first token.

    At each step, `constrain` sets the log-probabilities of forbidden tokens to -inf. Then `choose` chooses the tokens.
    """
    captions, device = len(state.attention_weights), state.attention_weights.device
    tokens = torch.full((captions, max_length), PAD, device=device)  # (N, T)
    next_tokens = torch.full((captions,), START, device=device)
    finished = torch.zeros_like(next_tokens, dtype=torch.bool)
    total, attention = torch.zeros_like(next_tokens, dtype=torch.float), []
    for t in range(max_length):
        log_probs, state = model.step(next_tokens, state)
        if constrain:
            log_probs = constrain(log_probs, tokens[:, :t])
        next_tokens = choose(log_probs, t).masked_fill(finished, PAD)  # (N,)
        total = total + log_probs.gather(1, next_tokens[:, None])[:, 0].masked_fill(finished, 0.0)
        tokens[:, t] = next_tokens
        attention.append(state.attention_weights)
        finished |= next_tokens == END
        if finished.all():
            break
    return to_hypotheses(tokens[:, : t + 1], total, torch.stack(attention, dim=1))


@torch.inference_mode()
def greedy(model: CaptionModel, features: Tensor, max_length: int) -> list[Hypothesis]:
    """Return N hypotheses of at most `max_length` tokens: the most probable token at each step. features (N, P, C)."""
    # topk instead of argmax, so that ties are broken as in a beam search of size 1.
    return decode_stepwise(model, model.init_state(features), max_length, lambda p, _: p.topk(1).indices[:, 0])


def gather_hypotheses(own: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Return the hypotheses of all processes, in the order of the process ranks. `own` are those of this process."""
    lengths = all_gather(torch.tensor([len(h.token_ids) for h in own], dtype=torch.long)).tolist()
    token_ids = all_gather(torch.tensor([token for h in own for token in h.token_ids], dtype=torch.long))
    log_probs = all_gather(torch.tensor([h.log_prob for h in own], dtype=torch.double)).tolist()
    weights = all_gather(torch.cat([torch.empty(0), *(h.attention.flatten() for h in own)]))
    attention = weights.view(len(token_ids), len(weights) // max(1, len(token_ids)))  # (tokens, P)
    rows = zip(token_ids.split(lengths), log_probs, attention.split(lengths), strict=True)
    return [Hypothesis(ids.tolist(), log_prob, part) for ids, log_prob, part in rows]
