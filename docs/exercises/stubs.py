"""Exercises: write these twelve functions, from one step of an RNN to BLEU.

Copy this file, replace each `raise NotImplementedError` by your code, and check your copy:

    cp docs/exercises/stubs.py my_exercises.py
    make check-exercises FILE=my_exercises.py

Shapes: N captions, T steps, D inputs, H hidden units, V words. Each row is one caption, so a layer is `x @ W + b`.

Rules:

- Do not use autograd or torch.nn. Backward functions compute gradients by hand.
- `dx` is the gradient of the loss with respect to `x`. It has the shape of `x`.
- Never change an argument in place.
- `cache` is what a forward function keeps for its backward function. You choose what it holds.
- A function may call the functions above it.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def rnn_step_forward(x: Tensor, prev_h: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, Any]:
    """Run one step of an RNN. x (N, D), prev_h (N, H), Wx (D, H), Wh (H, H), b (H,) -> next_h (N, H), cache.

    a = x Wx + prev_h Wh + b,  next_h = tanh(a)
    """
    raise NotImplementedError


def rnn_step_backward(dnext_h: Tensor, cache: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of one step: dx, dprev_h, dWx, dWh, db. dnext_h (N, H).

    Hints: first compute da (N, H) from dnext_h. tanh'(a) needs only next_h. Every other gradient follows from da.
    Compare shapes to see which matrix needs a transpose.
    """
    raise NotImplementedError


def rnn_forward(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, Any]:
    """Run an RNN over a sequence. x (N, T, D), h0 (N, H) -> h (N, T, H), cache. h[:, t] is the state after step t."""
    raise NotImplementedError


def rnn_backward(dh: Tensor, cache: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through time. dh (N, T, H) -> dx (N, T, D), dh0 (N, H), dWx, dWh, db.

    `dh[:, t]` is the gradient of h[:, t] from the output of step t only. Two hints: through what else does h[:, t]
    change the loss? All steps share the weights, so what is the gradient of a weight?
    """
    raise NotImplementedError


def lstm_step_forward(
    x: Tensor, prev_h: Tensor, prev_c: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Any]:
    """Run one step of an LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    x (N, D), prev_h and prev_c (N, H), Wx (D, 4H), Wh (H, 4H), b (4H,) -> next_h (N, H), next_c (N, H), cache

    a = x Wx + prev_h Wh + b has four blocks of H columns, in the order i, f, g, o, as in torch.
    i, f, o = sigmoid of their blocks,  g = tanh of its block
    next_c = f * prev_c + i * g,  next_h = o * tanh(next_c)
    """
    raise NotImplementedError


def lstm_step_backward(
    dnext_h: Tensor, dnext_c: Tensor, cache: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of one step: dx, dprev_h, dprev_c, dWx, dWh, db. dnext_h and dnext_c (N, H).

    Hints: next_c changes the loss through two paths, so its gradient is a sum. With s = sigmoid(a), s' = s (1 - s).
    Compute da (N, 4H) block by block, and join the blocks in the order of the forward pass.
    """
    raise NotImplementedError


def lstm_forward(x: Tensor, h0: Tensor, Wx: Tensor, Wh: Tensor, b: Tensor) -> tuple[Tensor, Any]:
    """Run an LSTM over a sequence. x (N, T, D), h0 (N, H) -> h (N, T, H), cache. The first prev_c is 0."""
    raise NotImplementedError


def lstm_backward(dh: Tensor, cache: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backpropagate through time. dh (N, T, H) -> dx (N, T, D), dh0 (N, H), dWx, dWh, db.

    As in `rnn_backward`, but two tensors carry the gradient from a step to the one before. After the last step, the
    gradient of c is 0.
    """
    raise NotImplementedError


def temporal_softmax_loss(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch of captions and its gradient: loss (one number), dx (N, T, V).

    x (N, T, V): scores of all words, before the softmax; y (N, T): the right word ids; mask (N, T): False at padding

    loss = sum over all (n, t) with mask[n, t] of -log softmax(x[n, t])[y[n, t]], divided by N
    Hints: a large score overflows in exp. Subtracting a number from all scores of a row changes no probability.
    """
    raise NotImplementedError


# What greedy and beam search need of a model: step(token, state) -> log_probs, new_state. `log_probs` (V,) are the
# log-probabilities of the next token after `token`. Do not look inside a state, and pass the new one to the next step.
Step = Callable[[int, Any], tuple[Tensor, Any]]


def greedy_search(step: Step, state: Any, start: int, end: int, max_length: int) -> list[int]:
    """Return the tokens of one caption: at each step, the most probable token.

    The first step reads `start`. Stop after `end`, or after `max_length` tokens. The result has `end` if it was
    reached, and never has `start`.
    """
    raise NotImplementedError


def beam_search(
    step: Step, state: Any, start: int, end: int, beam_size: int, max_length: int
) -> list[tuple[list[int], float]]:
    """Return the hypotheses of a beam search, best first, as pairs (tokens, sum of their log-probabilities).

    The beam begins with one empty hypothesis. At each step, extend every unfinished hypothesis by every token. A
    hypothesis that has `end` is finished: it stays as it is. Of all these candidates, finished or not, keep the
    `beam_size` with the largest sums. Stop when all are finished, or after `max_length` steps, and return the beam,
    with unfinished hypotheses too. `tokens` is as in `greedy_search`. Hint: each hypothesis needs a state of its own.
    """
    raise NotImplementedError


def bleu(references: dict[Any, list[list[str]]], hypotheses: dict[Any, list[str]]) -> list[float]:
    """Return BLEU-1, BLEU-2, BLEU-3 and BLEU-4 of a corpus, 0 to 1 (Papineni et al. 2002).

    references {image: [tokens, tokens, ...]}, hypotheses {image: tokens}

    For each n from 1 to 4, precision p_n = matches / n-grams of the hypotheses, both summed over all images before the
    division. An n-gram of a hypothesis matches at most as often as it occurs in the one reference that has it most.
    BLEU-n = brevity penalty * geometric mean of p_1 ... p_n; it is 0 if one of them is 0.
    The brevity penalty is exp(1 - r / c) if c < r, otherwise 1. c is the length of all hypotheses. r is the sum over
    images of the reference length closest to that of the hypothesis; of two equally close, the shorter.
    """
    raise NotImplementedError
