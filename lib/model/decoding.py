"""What all ways of decoding share: what they ask of a model, what they give, and writing one word after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from lib.text.vocabulary import END, PAD


class State(Protocol):
    """Where decoding stands, one row for each of the N captions being written."""

    @property
    def attention_weights(self) -> Tensor:
        """(N, P): the weight of each place of the picture when the last word was chosen; (N, 0) without attention."""

    def select(self, rows: Tensor) -> Self:
        """The state of the captions `rows` (M,), in that order, repeats allowed."""


# (log_probs (M, V), tokens so far (M, T)) -> log_probs (M, V) with forbidden tokens at -inf
Constrain = Callable[[Tensor, Tensor], Tensor]

AnyState = TypeVar("AnyState", bound=State)


class Model(Protocol[AnyState]):
    """What can be decoded: `Decoder`, or several as an `Ensemble`."""

    def init_state(self, features: Tensor) -> AnyState:
        """The state before the first word. features (N, P, C)."""

    def step(self, words: Tensor, state: AnyState) -> tuple[Tensor, AnyState]:
        """Reads `words` (N,): log-probabilities of the next (N, V), free to be written over, and the state after it."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What was written about a picture."""

    token_ids: list[int]  # T of them, <end> the last if it came to that; no other special
    log_prob: float  # the sum of the model's log-probabilities of `ids`
    attention: Tensor  # (T, P), on the CPU: where the model looked for each of `ids`; (T, 0) without attention


def to_hypotheses(written: Tensor, log_p: Tensor, looked: Tensor) -> list[Hypothesis]:
    """Cuts each of M captions after its <end>. written (M, T), log_p (M,), looked (M, T, P)."""
    lengths = (written != PAD).sum(dim=1).tolist()  # only what follows <end> is <pad>
    rows = zip(written.tolist(), log_p.tolist(), looked.cpu(), lengths, strict=True)
    return [Hypothesis(ids[:length], total, weights[:length]) for ids, total, weights, length in rows]


def decode_stepwise(
    model: Model[AnyState],
    words: Tensor,
    state: AnyState,
    max_length: int,
    choose: Callable[[Tensor, int], Tensor],
    constrain: Constrain | None = None,
) -> list[Hypothesis]:
    """Decode one token per step from `state`, in which the tokens `words` (N,) are read first.

    `choose` takes log_probs (N, V) and the step, and returns the chosen tokens (N,). `constrain` runs before it.
    """
    written = words.new_full((len(words), max_length), PAD)
    ended = torch.zeros_like(words, dtype=torch.bool)
    total, looked = torch.zeros_like(words, dtype=torch.float), []
    for t in range(max_length):
        log_p, state = model.step(words, state)
        if constrain:  # it overwrites what it forbids, but never what is chosen
            log_p = constrain(log_p, written[:, :t])
        words = choose(log_p, t).masked_fill(ended, PAD)  # (N,)
        total = total + log_p.gather(1, words[:, None])[:, 0].masked_fill(ended, 0.0)
        written[:, t] = words
        looked.append(state.attention_weights)
        ended |= words == END
        if ended.all():
            break
    return to_hypotheses(written[:, : t + 1], total, torch.stack(looked, dim=1))
