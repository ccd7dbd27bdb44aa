"""Gradient flow: the norms equal those of numeric gradients, and the gradient of an RNN vanishes faster."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.gradients import gradient_flow as module
from lib.gradients.gradient_flow import STEPS_BACK, gradient_flow
from lib.text.vocabulary import Vocabulary

WORDS = [f"w{i}" for i in range(12)]
VOCABULARY = Vocabulary(WORDS)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_norms_match_numeric_gradients_of_a_state(cell):
    torch.manual_seed(0)
    model = module._LanguageModel(cell, len(VOCABULARY), 6, 5).double()
    sequences = torch.randint(4, len(VOCABULARY), (1, 9))
    relative_norms = module._relative_norms(model, sequences)

    def loss(k: int, delta: torch.Tensor) -> torch.Tensor:
        x, split = model.embed(sequences[:, :-1]), sequences.shape[1] - 1 - k
        _, state = model.cell(x[:, :split])
        parts = state if isinstance(state, tuple) else (state,)
        changed = tuple(part + d for part, d in zip(parts, delta.chunk(len(parts)), strict=True))
        h, _ = model.cell(x[:, split:], changed if len(changed) == 2 else changed[0])
        return nn.functional.cross_entropy(model.output(h[:, -1]), sequences[:, -1], reduction="sum")

    changes = 1e-6 * torch.eye(5 * (2 if cell == "lstm" else 1)).double()
    norms = [np.linalg.norm([(loss(k, x) - loss(k, -x)).item() / 2e-6 for x in changes]) for k in (1, 2, 5)]
    assert relative_norms[[1, 4]] == pytest.approx(np.array(norms[1:]) / norms[0], rel=1e-5)


def test_an_untrained_rnn_forgets_faster_than_an_lstm_and_results_repeat(monkeypatch):
    monkeypatch.setattr(module, "_UPDATES", 3)
    rng = np.random.default_rng(0)
    captions = [[[WORDS[i] for i in rng.integers(0, 12, 8)] for _ in range(5)] for _ in range(20)]
    first, second = (gradient_flow(captions, VOCABULARY, 16, 32, seed=1) for _ in range(2))
    assert first.equals(second)
    assert first["steps_back"].tolist() == list(range(1, STEPS_BACK + 1))
    assert (first.iloc[0, 1:] == 1).all()
    assert first["rnn_untrained"].iloc[-1] < first["lstm_untrained"].iloc[-1] < 1e-3
