"""The caption decoder: an image's features in, a distribution over the next word out, step by step.

    features (P, C) --standardise--> regions r_p, and their mean v
                                      |
              v --+--> initial state h0 = tanh(W_s v), and c0 likewise for an LSTM
                  |
                  +--> W_i v --(+)--> [ cell ] --> h_t --> W_o h_t --> next word             attention: none
                                ^
             word w_t --> E[w_t] +

                 ... [ cell ] --> h_t --+--------------------------+                         attention: additive
                                        |                          +--> [ language cell ] --> W_o --> next word
                                        +--> attention over r_p ---+

The image enters by the initial state and again at every step (init-inject and par-inject together, in the
terms of Tanti et al. 2018, "Where to put the image in an image caption generator"). With attention, a second
cell reads what the first one said and what it looked at, side by side, as in the top-down model of Anderson
et al. 2018; but the first does not read the second's state, so that a whole caption runs through each part at
once when training. Dropout as in Zaremba et al. 2014: on what enters and leaves the cells, not on the recurrence.

Shapes: N captions, T words, P places in the picture (1 for a pooled vector), C channels, E embedding, H hidden.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib.cells import CELLS
from lib.model.attention import AdditiveAttention
from lib.model.layers import Dropout, Linear
from lib.text.vocabulary import SUPPRESSED_TOKENS


@dataclass(frozen=True)
class DecoderConfig:
    """All that fixes the decoder's shape; kept beside its weights."""

    num_regions: int  # P
    feature_size: int  # C
    vocabulary_size: int
    cell: str  # lstm, rnn
    implementation: str  # scratch, torch
    attention: str  # none, additive
    embedding_size: int
    hidden_size: int
    dropout: float


Hidden = tuple[Tensor, ...]  # a cell's state: h, or h and c, each (1, N, H)


@dataclass(frozen=True)
class State:
    """Where decoding stands: N captions being written, of I images."""

    hidden: Hidden
    language: Hidden  # of the language cell; empty without attention
    image: Tensor  # (I, E), enters at every step
    regions: tuple[Tensor, ...]  # keys and values, each (I, P, H); empty without attention
    image_index: Tensor  # (N,): which image each caption is of
    attention_weights: (
        Tensor  # (N, P): attention weights of the last step; (N, 0) before the first, and without attention
    )

    def select(self, rows: Tensor) -> "State":
        """The state of the captions `rows` (M,), in that order, repeats allowed. What is of the images is shared."""
        return replace(
            self,
            hidden=tuple(part.index_select(1, rows) for part in self.hidden),
            language=tuple(part.index_select(1, rows) for part in self.language),
            image_index=self.image_index[rows],
            attention_weights=self.attention_weights[rows],
        )


@dataclass(frozen=True)
class CaptionBatch:
    """Captions to be read as people wrote them."""

    image_index: Tensor  # (N,): which of the images each is of
    token_ids: Tensor  # (N, T), from <start> on, padded
    word_positions: tuple[Tensor, Tensor]  # the row and the column of each word to be guessed, in ids[:, 1:]

    @classmethod
    def of_lengths(cls, rows: Tensor, ids: Tensor, lengths: Tensor, words: int) -> "CaptionBatch":
        """Captions of `lengths` (N,), <start> among them, with `words` words to be guessed in all.

        That number is known before, so that a GPU, which could count them too, need not be waited for.
        """
        guessed = lengths - 1
        of = torch.repeat_interleave(guessed, output_size=words)  # (words,)
        firsts = guessed.cumsum(0) - guessed
        return cls(rows, ids, (of, torch.arange(words, device=ids.device) - firsts[of]))

    @property
    def words(self) -> Tensor:
        """What is to be guessed, (words,): all but <start> and padding."""
        return self.token_ids[:, 1:][self.word_positions]


class Decoder(nn.Module):
    """Scores of every next word, for whole captions (training) or one step at a time (decoding)."""

    feature_mean: Tensor
    feature_scale: Tensor
    suppressed_tokens: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        channels, embedding, hidden = config.feature_size, config.embedding_size, config.hidden_size
        self.attends = config.attention == "additive"
        self.states = 2 if config.cell == "lstm" else 1  # tensors in a cell's state
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_scale", torch.ones(channels))
        self.register_buffer("suppressed_tokens", torch.tensor(SUPPRESSED_TOKENS), persistent=False)
        self.image_to_input = Linear(channels, embedding)
        self.image_to_state = Linear(channels, self.states * hidden)
        self.embed = nn.Embedding(config.vocabulary_size, embedding)
        cell = CELLS[config.cell, config.implementation]
        self.cell = cell(embedding, hidden, batch_first=True)
        if self.attends:
            self.attention = AdditiveAttention(config.num_regions, channels, hidden)
            self.language = cell(2 * hidden, hidden, batch_first=True)
        self.dropout = Dropout(config.dropout)
        self.output = Linear(hidden, config.vocabulary_size)

    def fit_standardisation(self, parts: Iterable[Tensor]) -> None:
        """Centres each channel and scales it to unit variance, as on `parts` of the features, (n, P, C) each."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for part in parts:
            vectors = part.flatten(0, 1).double()  # (n P, C)
            count += len(vectors)
            total, squares = total + vectors.sum(0), squares + vectors.square().sum(0)
        mean = total / count
        variance = squares / count - mean.square()
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(1 / variance.clamp_min(1e-6).sqrt())

    def init_state(self, features: Tensor) -> State:
        """The state before the first word. features (N, P, C)."""
        regions = (features.to(self.feature_mean.dtype) - self.feature_mean) * self.feature_scale  # (N, P, C)
        regions = self.dropout(regions)
        v = regions.mean(dim=1)  # (N, C)
        hidden = tuple(h[None].contiguous() for h in torch.tanh(self.image_to_state(v)).chunk(self.states, dim=1))
        return State(
            hidden,
            tuple(torch.zeros_like(h) for h in hidden) if self.attends else (),
            self.image_to_input(v),
            self.attention.regions(regions) if self.attends else (),
            torch.arange(len(v), device=v.device),
            v.new_empty(len(v), 0),
        )

    def unroll(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads the ids `words` (N, T) from `state`: what the next words follow from, (N, T, H), and the new state."""
        image = state.image.index_select(0, state.image_index)  # (N, E)
        x = self.dropout(self.embed(words) + image[:, None])  # (N, T, E)
        h, hidden = self._through(self.cell, x, state.hidden)
        language, looked = state.language, state.attention_weights
        if self.attends:
            context, weights = self.attention(h, *state.regions, state.image_index)  # (N, T, H), (N, T, P)
            looked = weights[:, -1]
            h, language = self._through(self.language, self.dropout(torch.cat([h, context], dim=-1)), language)
        return self.dropout(h), replace(state, hidden=hidden, language=language, attention_weights=looked)

    def _through(self, cell: nn.Module, x: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Runs a cell. torch's RNN takes and gives its state as a tensor, its LSTM as a pair; here both are tuples."""
        h, last = cell(x, hidden if self.states == 2 else hidden[0])
        return h, last if self.states == 2 else (last,)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one word each, `words` (N,): log-probabilities of the next (N, V), and the state after it.

        What may never be written, <pad>, <start> and <unk>, has probability 0.
        """
        h, state = self.unroll(words[:, None], state)
        log_p = torch.log_softmax(self.output(h[:, 0]), dim=-1)
        return log_p.index_fill_(1, self.suppressed_tokens, float("-inf")), state

    def forward(self, features: Tensor, *parts: CaptionBatch) -> Tensor:
        """Scores of the words of some captions, each from those before it, teacher-forced.

        features (I, P, C), each image once -> (words, V), in the order of the parts and of their `places`. Each part is
        run by itself, as long as its longest caption.
        """
        start = self.init_state(features)
        read = [
            self.unroll(part.token_ids[:, :-1], start.select(part.image_index))[0][part.word_positions]
            for part in parts
        ]  # (words, H)
        return self.output(torch.cat(read))
