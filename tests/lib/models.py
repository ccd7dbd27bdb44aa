"""Models to decode with: small decoders, and one whose every probability is given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.decoder import CaptionBatch, Decoder, DecoderConfig
from lib.text.vocabulary import PAD, START, UNKNOWN


def decoder(cell="lstm", implementation="scratch", attention="additive", vocabulary=9, places=4, seed=0) -> Decoder:
    torch.manual_seed(seed)
    config = DecoderConfig(places, 6, vocabulary, cell, implementation, attention, 8, 8, 0.5)
    made = Decoder(config).double().eval()
    for parameter in made.parameters():  # far from uniform predictions
        parameter.data.mul_(3)
    return made


def features(images=7, places=4) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(images, places, 6, dtype=torch.float64)


def taught(rows: Tensor, ids: Tensor) -> CaptionBatch:
    """Captions (N, T) of the images `rows` (N,), with the places of all their words."""
    return CaptionBatch(rows, ids, (ids[:, 1:] != PAD).nonzero(as_tuple=True))


@dataclass(frozen=True)
class Nothing:
    """The state of a model that remembers nothing."""

    attention_weights: Tensor  # (N, 0)

    def select(self, rows: Tensor) -> "Nothing":
        return Nothing(self.attention_weights[rows])


class Table:
    """The next word's log-probabilities (V,) follow from the last word alone: row `word` of a table (V, V)."""

    def __init__(self, log_p: Tensor):
        self.log_prob = log_p.clone()
        self.log_prob[:, [PAD, START, UNKNOWN]] = float("-inf")

    def init_state(self, features: Tensor) -> Nothing:
        return Nothing(features.new_empty(len(features), 0))

    def step(self, words: Tensor, state: Nothing) -> tuple[Tensor, Nothing]:
        return self.log_prob[words], state
