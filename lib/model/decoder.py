"""The caption decoder: from image features, compute the scores of the next token, step by step.

    features (I, P, C) --standardise--> regions (I, P, C) --mean--> v (I, C)

    v --> tanh(W_s v) = h_0 of the first cell; for an LSTM also c_0
    v --> W_i v ----(+)--> x_t --> [ cell ] --> h_t --> W_o h_t --> scores of token t+1      attention: none
                     ^
    token_t --> E ---+

           x_t --> [ cell ] --> h_t --+-----------------------+                              attention: additive
                                      |                       +--> [ language cell ] --> W_o --> scores of token t+1
                                      +--> attend to regions -+

The image sets the initial state and is an input at every step: this combines init-inject and par-inject of Tanti et al.
2018, "Where to put the image in an image caption generator". With attention, the language cell reads the output of the
first cell and the attended context, as in the top-down model of Anderson et al. 2018. Unlike in that model, the first
cell does not read the state of the language cell. So in training each cell runs once over all tokens of a caption.
Dropout is applied to the inputs and outputs of the cells, not to the recurrence, as in Zaremba et al. 2014.

Shapes: I images, N captions, T tokens, P regions (1 for a pooled vector), C features per region, E embedding,
H hidden, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib.cells import CELLS
from lib.features.pca import mean_and_second_moment
from lib.model.attention import AdditiveAttention
from lib.model.layers import Dropout, Linear
from lib.text.vocabulary import SUPPRESSED_TOKENS


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of the decoder and the maximum length of its captions. It is saved next to the weights."""

    num_regions: int  # P
    feature_size: int  # C
    vocabulary_size: int  # V
    cell: str  # lstm, rnn
    implementation: str  # scratch, torch
    attention: str  # none, additive
    embedding_size: int  # E
    hidden_size: int  # H
    dropout: float
    max_length: int = 20  # maximum words of a caption in training; the default is for model folders of earlier versions


CellState = tuple[Tensor, ...]  # (h,) of an RNN, (h, c) of an LSTM; each (1, N, H)


@dataclass(frozen=True)
class DecoderState:
    """The state after some tokens of N captions of I images."""

    cell: CellState
    language: CellState  # state of the language cell; empty without attention
    image_input: Tensor  # (I, E): the image's part of the input x_t, the same at every step
    regions: tuple[Tensor, ...]  # keys and values, each (I, P, H); empty without attention
    image_index: Tensor  # (N,): the image of each caption
    attention_weights: Tensor  # (N, P): weights at the last step; (N, 0) before the first step and without attention

    def select(self, rows: Tensor) -> "DecoderState":
        """Return the state of the captions `rows` (M,). Rows may repeat. Image tensors are shared, not copied."""
        return replace(
            self,
            cell=tuple(part.index_select(1, rows) for part in self.cell),
            language=tuple(part.index_select(1, rows) for part in self.language),
            image_index=self.image_index[rows],
            attention_weights=self.attention_weights[rows],
        )


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
        channels, embedding, hidden = config.feature_size, config.embedding_size, config.hidden_size
        self.attends = config.attention == "additive"
        self.num_states = 2 if config.cell == "lstm" else 1  # number of tensors in a CellState
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_scale", torch.ones(channels))
        self.register_buffer("suppressed_tokens", torch.tensor(SUPPRESSED_TOKENS), persistent=False)
        self.image_to_input = Linear(channels, embedding)
        self.image_to_state = Linear(channels, self.num_states * hidden)
        self.embed = nn.Embedding(config.vocabulary_size, embedding)
        cell = CELLS[config.cell, config.implementation]
        self.cell = cell(embedding, hidden, batch_first=True)
        if self.attends:
            self.attention = AdditiveAttention(config.num_regions, channels, hidden)
            self.language = cell(2 * hidden, hidden, batch_first=True)
        self.dropout = Dropout(config.dropout)
        self.output = Linear(hidden, config.vocabulary_size)

    def fit_standardisation(self, parts: Iterable[Tensor]) -> None:
        """Set the standardisation so that each feature has mean 0 and variance 1 over all `parts`, (n, P, C) each."""
        mean, squares = mean_and_second_moment(parts, lambda vectors: vectors.square().sum(0))  # (C,), (C,)
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / (squares - mean.square()).clamp_min(1e-6).sqrt())

    def init_state(self, features: Tensor) -> DecoderState:
        """Return the state before the first token, with one caption per image. features (I, P, C)."""
        features = features.to(self.feature_mean.dtype)
        regions = self.dropout((features - self.feature_mean) * self.feature_scale)  # (I, P, C)
        v = regions.mean(dim=1)  # (I, C)
        initial = torch.tanh(self.image_to_state(v)).chunk(self.num_states, dim=1)  # one or two tensors (I, H)
        cell = tuple(part[None].contiguous() for part in initial)  # (1, I, H)
        return DecoderState(
            cell=cell,
            language=tuple(torch.zeros_like(part) for part in cell) if self.attends else (),
            image_input=self.image_to_input(v),
            regions=self.attention.regions(regions) if self.attends else (),
            image_index=torch.arange(len(v), device=v.device),
            attention_weights=v.new_empty(len(v), 0),
        )

    def unroll(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read token_ids (N, T), starting in `state`. Return the output layer's input (N, T, H) and the new state."""
        image = state.image_input.index_select(0, state.image_index)  # (N, E)
        x = self.dropout(self.embed(token_ids) + image[:, None])  # (N, T, E)
        h, cell = self._run_cell(self.cell, x, state.cell)  # (N, T, H)
        language, attention_weights = state.language, state.attention_weights
        if self.attends:
            context, weights = self.attention(h, *state.regions, state.image_index)  # (N, T, H), (N, T, P)
            attention_weights = weights[:, -1]  # (N, P)
            x = self.dropout(torch.cat([h, context], dim=-1))  # (N, T, 2H)
            h, language = self._run_cell(self.language, x, language)  # (N, T, H)
        return self.dropout(h), replace(state, cell=cell, language=language, attention_weights=attention_weights)

    def _run_cell(self, cell: nn.Module, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Run a cell over x (N, T, ...). The state of nn.RNN is a tensor, that of nn.LSTM is a pair of tensors."""
        h, last = cell(x, state if self.num_states == 2 else state[0])
        return h, last if self.num_states == 2 else (last,)

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
