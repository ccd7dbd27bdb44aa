"""Measure how far back a word's loss reaches: gradients of an RNN and an LSTM through a long sequence.

The sequence is all captions of an image, then those of the next image, and so on. A caption helps to predict the other
captions of its image, so it helps to remember fifty words. For each cell, a language model without images is trained on
the sequence. Before and after training, the gradient of the last word's loss with respect to the state k words back is
measured (Bengio et al. 1994, "Learning long-term dependencies with gradient descent is difficult"; Pascanu et al. 2013,
"On the difficulty of training recurrent neural networks").
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.cells import CELLS
from lib.optim.optimiser import Optimiser
from lib.runtime.device import device
from lib.text.vocabulary import Vocabulary

STEPS_BACK = 50  # words
_UPDATES, _BATCH_SIZE = 300, 32
_LEARNING_RATE = 0.004
_MEASURED = 256  # sequences


def gradient_flow(
    captions: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, embedding: int, hidden: int, seed: int
) -> pd.DataFrame:
    """Return columns steps_back (k), rnn_untrained, rnn_trained, lstm_untrained, lstm_trained.

    captions[i] are the token lists of image i. Each value is the norm of the gradient of the last word's cross-entropy
    with respect to the state k words back (h, or h and c). It is averaged over 256 sequences and divided by the value
    at k = 1.
    """
    rng = np.random.default_rng(seed)
    encoded = [vocabulary.encode(tokens, len(tokens))[1:] for image in captions for tokens in image]  # no <start>
    stream = torch.tensor([token for caption in encoded for token in caption])
    stream = stream.repeat(1 + (STEPS_BACK + 2) // len(stream)).to(device())  # at least as long as one window
    columns: dict[str, np.ndarray] = {"steps_back": np.arange(1, STEPS_BACK + 1)}
    measured = _windows(stream, _MEASURED, np.random.default_rng(seed))
    for cell in ("rnn", "lstm"):
        torch.manual_seed(seed)
        model = _LanguageModel(cell, len(vocabulary), embedding, hidden).to(device())
        columns[f"{cell}_untrained"] = _relative_norms(model, measured)
        optimiser = Optimiser(model.parameters(), _LEARNING_RATE, _UPDATES, weight_decay=0.0)
        for _ in range(_UPDATES):
            batch = _windows(stream, _BATCH_SIZE, rng)  # (N, T + 2)
            logits = model(batch[:, :-1])  # (N, T + 1, V)
            optimiser.step(nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
        columns[f"{cell}_trained"] = _relative_norms(model, measured)
    return pd.DataFrame(columns)


class _LanguageModel(nn.Module):
    """A model that predicts the next token: embedding, cell, output layer."""

    def __init__(self, cell: str, vocabulary_size: int, embedding: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary_size, embedding)
        self.cell = CELLS[cell, "scratch"](embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next tokens. tokens (N, T) -> logits (N, T, V)."""
        return self.output(self.cell(self.embed(tokens))[0])


def _windows(stream: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Return `count` windows at random positions in the stream, (count, T + 2)."""
    starts = torch.from_numpy(rng.integers(0, len(stream) - STEPS_BACK - 2, count))
    return stream[starts[:, None] + torch.arange(STEPS_BACK + 2)]


def _relative_norms(model: _LanguageModel, sequences: Tensor) -> np.ndarray:
    """Return the mean gradient norm of the state t = 1, 2, ... steps back, divided by the norm at t = 1, (T,)."""
    states: list[tuple[Tensor, ...]] = []  # per step: (h,) or (h, c), each (1, N, H)
    state = None
    for x in model.embed(sequences[:, :-1]).split(1, dim=1):  # (N, 1, E)
        h, state = model.cell(x, state)
        states.append(state if isinstance(state, tuple) else (state,))
    loss = nn.functional.cross_entropy(model.output(h[:, 0]), sequences[:, -1], reduction="sum")
    earlier = states[-2::-1]
    gradients = iter(torch.autograd.grad(loss, [part for parts in earlier for part in parts]))
    norms = [torch.cat([next(gradients) for _ in parts], dim=-1).norm(dim=-1).mean().item() for parts in earlier]
    return np.array(norms) / norms[0]
