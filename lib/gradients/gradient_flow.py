"""How far back does a word's loss reach? The gradients of an RNN and an LSTM, followed back through a long sequence.

The sequence is the captions of a picture one after another, then those of the next picture: what the first caption
says helps to guess the fifth, so there is something to remember for fifty words. On it, a language model without
pictures is trained for each cell, and the gradient of the last word's loss with respect to the state k words back is
measured, before and after (Bengio et al. 1994, "Learning long-term dependencies with gradient descent is difficult";
Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").
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
_UPDATES, _BATCH = 300, 32
_LEARNING_RATE = 0.004
_MEASURED = 256  # sequences


def gradient_flow(
    captions: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, embedding: int, hidden: int, seed: int
) -> pd.DataFrame:
    """How gradients fade with k: columns steps_back (k), rnn_untrained, rnn_trained, lstm_untrained, lstm_trained.

    captions[i] are the token lists of image i. An entry is the norm of the gradient of the last word's cross-entropy
    with respect to the state k words back (h, or h and c), in the mean over 256 sequences, over its value at k = 1.
    """
    rng = np.random.default_rng(seed)
    ids = [vocabulary.encode(tokens, len(tokens))[1:] for image in captions for tokens in image]  # without <start>
    words = torch.tensor([word for caption in ids for word in caption])
    words = words.repeat(1 + (STEPS_BACK + 2) // len(words)).to(device())  # once, but for the tiniest of data sets
    columns: dict[str, np.ndarray] = {"steps_back": np.arange(1, STEPS_BACK + 1)}
    measured = _windows(words, _MEASURED, np.random.default_rng(seed))
    for cell in ("rnn", "lstm"):
        torch.manual_seed(seed)
        model = _LanguageModel(cell, len(vocabulary), embedding, hidden).to(device())
        columns[f"{cell}_untrained"] = _faded(model, measured)
        optimiser = Optimiser(model.parameters(), _LEARNING_RATE, _UPDATES, weight_decay=0.0)
        for _ in range(_UPDATES):
            batch = _windows(words, _BATCH, rng)  # (N, T + 2)
            scores = model(batch[:, :-1])  # (N, T + 1, V)
            optimiser.step(nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten()))
        columns[f"{cell}_trained"] = _faded(model, measured)
    return pd.DataFrame(columns)


class _LanguageModel(nn.Module):
    """The next word from those before it: embedding, cell, and a score for each word."""

    def __init__(self, cell: str, words: int, embedding: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(words, embedding)
        self.cell = CELLS[cell, "scratch"](embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, words)

    def forward(self, words: Tensor) -> Tensor:
        """words (N, T) -> scores of what follows each (N, T, V)."""
        return self.output(self.cell(self.embed(words))[0])


def _windows(words: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """`count` sequences of T + 2 words that begin anywhere in the stream, (count, T + 2)."""
    firsts = torch.from_numpy(rng.integers(0, len(words) - STEPS_BACK - 2, count))
    return words[firsts[:, None] + torch.arange(STEPS_BACK + 2)]


def _faded(model: _LanguageModel, sequences: Tensor) -> np.ndarray:
    """Norms of the gradient with respect to the states 1, 2 and so on before the last, (T,), over the first of them."""
    states: list[tuple[Tensor, ...]] = []  # of each step: h, or h and c, each (1, N, H)
    state = None
    for x in model.embed(sequences[:, :-1]).split(1, dim=1):  # (N, 1, E)
        h, state = model.cell(x, state)
        states.append(state if isinstance(state, tuple) else (state,))
    loss = nn.functional.cross_entropy(model.output(h[:, 0]), sequences[:, -1], reduction="sum")
    before = states[-2::-1]
    gradients = iter(torch.autograd.grad(loss, [part for parts in before for part in parts]))
    norms = [torch.cat([next(gradients) for _ in parts], dim=-1).norm(dim=-1).mean().item() for parts in before]
    return np.array(norms) / norms[0]
