"""The caption decoder: from image features, compute the scores of the next token, step by step.

    features (I, P, C) --standardise--> regions (I, P, C) --+
                                                            +--> [ body ] --> h_t --> W_o h_t --> scores of token t+1
    token_t ------------------------------------------------+

The body is a recurrent network (`lib.model.recurrent`) or a transformer (`lib.model.transformer`). It is a module with
two methods:

    init_state(regions (I, P, C)) -> the state before the first token
    forward(token_ids (N, T), state) -> h (N, T, H), the new state

Shapes: see `lib.model.state`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.features.pca import mean_and_second_moment
from lib.model.layers import Dropout, Linear
from lib.model.recurrent import Recurrent
from lib.model.state import DecoderConfig, DecoderState
from lib.model.transformer import Transformer
from lib.text.vocabulary import SUPPRESSED_TOKENS


@dataclass(frozen=True)
class CaptionBatch:
    """Reference captions for teacher forcing."""

    image_index: Tensor  # (N,): the image of each caption
    token_ids: Tensor  # (N, T): <start>, the tokens of the caption, <pad>
    word_positions: tuple[Tensor, Tensor]  # rows and columns of the targets in token_ids[:, 1:], each (words,)

    @classmethod
    def of_lengths(cls, image_index: Tensor, token_ids: Tensor, lengths: Tensor, num_words: int) -> "CaptionBatch":
        """Return captions of `lengths` (N,), including <start>.

        `num_words` is the number of all targets. It is an argument, because counting them on a GPU needs a
        synchronisation.
        """
        targets = lengths - 1  # (N,)
        rows = torch.repeat_interleave(targets, output_size=num_words)  # (words,)
        first = targets.cumsum(0) - targets  # (N,)
        return cls(image_index, token_ids, (rows, torch.arange(num_words, device=token_ids.device) - first[rows]))

    @property
    def words(self) -> Tensor:
        """Return the targets (words,): all tokens except <start> and <pad>."""
        return self.token_ids[:, 1:][self.word_positions]


class Decoder(nn.Module):
    """Scores the next token: at all positions of a caption in training, one step at a time in decoding."""

    feature_mean: Tensor
    feature_scale: Tensor
    suppressed_tokens: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.attends = config.attends
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_scale", torch.ones(config.feature_size))
        self.register_buffer("suppressed_tokens", torch.tensor(SUPPRESSED_TOKENS), persistent=False)
        self.dropout = Dropout(config.dropout)  # the body uses this module for all its dropout
        self.body = (Transformer if config.cell == "transformer" else Recurrent)(config, self.dropout)
        self.output = Linear(config.hidden_size, config.vocabulary_size)

    def fit_standardisation(self, parts: Iterable[Tensor]) -> None:
        """Set the standardisation so that each feature has mean 0 and variance 1 over all `parts`, (n, P, C) each."""
        mean, squares = mean_and_second_moment(parts, lambda vectors: vectors.square().sum(0))  # (C,), (C,)
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / (squares - mean.square()).clamp_min(1e-6).sqrt())

    def init_state(self, features: Tensor) -> DecoderState:
        """Return the state before the first token, with one caption per image. features (I, P, C)."""
        features = features.to(self.feature_mean.dtype)
        return self.body.init_state(self.dropout((features - self.feature_mean) * self.feature_scale))

    def unroll(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read token_ids (N, T), starting in `state`. Return the output layer's input (N, T, H) and the new state."""
        return self.body(token_ids, state)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read tokens (N,). Return log_probs (N, V) of the next tokens, -inf for suppressed ones, and the new state."""
        h, state = self.unroll(tokens[:, None], state)  # (N, 1, H)
        log_probs = torch.log_softmax(self.output(h[:, 0]), dim=-1)  # (N, V)
        return log_probs.index_fill_(1, self.suppressed_tokens, float("-inf")), state

    def forward(self, features: Tensor, *batches: CaptionBatch) -> Tensor:
        """Return the scores (words, V) of all targets, batch by batch, given the tokens before them (teacher forcing).

        features (I, P, C) has each image once. Batches may be padded to different lengths.
        """
        start = self.init_state(features)
        h = [
            self.unroll(batch.token_ids[:, :-1], start.select(batch.image_index))[0][batch.word_positions]
            for batch in batches
        ]  # (words, H) each
        return self.output(torch.cat(h))
