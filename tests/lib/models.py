"""Models for decoding tests: small decoders, and a model with given probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.model.decoder import CaptionBatch, Decoder, DecoderConfig
from lib.text.vocabulary import PAD, SUPPRESSED_TOKENS


def decoder(
    cell="lstm", implementation="scratch", attention="additive", vocabulary=9, num_regions=4, seed=0
) -> Decoder:
    torch.manual_seed(seed)
    config = DecoderConfig(num_regions, 6, vocabulary, cell, implementation, attention, 8, 8, 0.5)
    model = Decoder(config).double().eval()
    for parameter in model.parameters():  # large weights give predictions that are far from uniform
        parameter.data.mul_(3)
    return model


def features(images=7, num_regions=4) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(images, num_regions, 6, dtype=torch.float64)


def caption_batch(image_index: Tensor, token_ids: Tensor) -> CaptionBatch:
    """Return a batch of the captions `token_ids` (N, T) of the images `image_index` (N,)."""
    return CaptionBatch(image_index, token_ids, (token_ids[:, 1:] != PAD).nonzero(as_tuple=True))


@dataclass(frozen=True)
class EmptyState:
    """The state of a model without memory."""

    attention_weights: Tensor  # (N, 0)

    def select(self, rows: Tensor) -> "EmptyState":
        return EmptyState(self.attention_weights[rows])


class Table:
    """A model whose log-probabilities depend on the last token alone: row `token` of a table (V, V)."""

    def __init__(self, log_probs: Tensor):
        self.log_probs = log_probs.clone()
        self.log_probs[:, SUPPRESSED_TOKENS] = float("-inf")

    def init_state(self, features: Tensor) -> EmptyState:
        return EmptyState(features.new_empty(len(features), 0))

    def step(self, tokens: Tensor, state: EmptyState) -> tuple[Tensor, EmptyState]:
        return self.log_probs[tokens], state
