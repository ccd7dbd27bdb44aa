"""The caption decoder: an image's features in, a distribution over the next word out, step by step.

    features (P, C) --standardise--> relu(W_r . + place_p) = regions r_p (P, H), and their mean v (H)

              v --+--> initial states h0 = tanh(W_s v), and c0 likewise for an LSTM
                  |
                  +--> W_i v --(+)--> x_t --> [ layer 1 ] --> [ layer 2 ] ... --> W_o --> next word
                                ^
             word w_t --> E[w_t] +

    a layer with attention: none:            x_t --> [ cell ] --> h_t -->
    a layer with attention: additive:        x_t --> [ cell ] --> h_t ---(+)-->
                                                                   |      ^
                                                                   +--> attention over the regions r_p

The image enters by the initial states and again at every step (init-inject and par-inject together, in the
terms of Tanti et al. 2018, "Where to put the image in an image caption generator"). Attention follows the
cell and is added to what it gives out, as in Lu et al. 2017 ("Knowing when to look"), so that a whole caption
runs through each part at once when training. One such layer cannot know what it looked at for earlier words;
a second one reads what the first one saw, and remembers. The vector place_p is learned: features do not say
where they lie, and captions do. Dropout as in Zaremba et al. 2014: between layers, not on the recurrence.

Shapes: N captions, T words, P places in the picture (1 for a pooled vector), C channels, E embedding, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib.captioner.attention import AdditiveAttention
from lib.cells import ScratchLSTM, ScratchRNN
from lib.text.vocabulary import PAD, START, UNKNOWN

CELLS: dict[tuple[str, str], Callable[..., nn.Module]] = {
    ("rnn", "scratch"): ScratchRNN,
    ("lstm", "scratch"): ScratchLSTM,
    ("rnn", "torch"): nn.RNN,
    ("lstm", "torch"): nn.LSTM,
}


@dataclass(frozen=True)
class DecoderConfig:
    """All that fixes the decoder's shape; kept beside its weights."""

    places: int  # P
    channels: int  # C
    vocabulary_size: int
    cell: str  # lstm, rnn
    implementation: str  # scratch, torch
    attention: str  # none, additive
    embedding_size: int
    hidden_size: int
    layers: int
    dropout: float


Hidden = tuple[Tensor, ...]  # a cell's state: h, or h and c, each (1, N, H)


@dataclass(frozen=True)
class State:
    """Where decoding stands, one row for each of the N captions being written."""

    hidden: tuple[Hidden, ...]  # one for each layer
    image: Tensor  # (N, E), enters at every step
    regions: Tensor  # (N, P, H), the values of attention
    keys: tuple[Tensor, ...]  # (N, P, H), one for each layer that attends

    def select(self, rows: Tensor) -> "State":
        """The state of the captions `rows` (M,), in that order, repeats allowed."""
        return State(
            tuple(tuple(part[:, rows] for part in hidden) for hidden in self.hidden),
            self.image[rows],
            self.regions[rows],
            tuple(keys[rows] for keys in self.keys),
        )


class Decoder(nn.Module):
    """Scores of every next word, for whole captions (training) or one step at a time (decoding)."""

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        embedding, hidden, layers = config.embedding_size, config.hidden_size, config.layers
        self.states = 2 if config.cell == "lstm" else 1  # tensors in a cell's state
        self.register_buffer("feature_mean", torch.zeros(config.channels))
        self.register_buffer("feature_scale", torch.ones(()))
        self.region = nn.Linear(config.channels, hidden)
        self.place = nn.Parameter(torch.zeros(config.places, hidden))
        self.image_to_input = nn.Linear(hidden, embedding)
        self.image_to_states = nn.Linear(hidden, layers * self.states * hidden)
        self.embed = nn.Embedding(config.vocabulary_size, embedding)
        cell = CELLS[config.cell, config.implementation]
        self.cells = nn.ModuleList(cell(hidden if i else embedding, hidden, batch_first=True) for i in range(layers))
        attentions = layers if config.attention == "additive" else 0
        self.attentions = nn.ModuleList(AdditiveAttention(hidden, attention_size=hidden) for _ in range(attentions))
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden, config.vocabulary_size)
        nn.init.normal_(self.embed.weight, std=embedding**-0.5)

    def fit_standardisation(self, features: Tensor) -> None:
        """Centres features and scales them to unit variance overall, as measured on `features` (I, P, C)."""
        flat = features.flatten(0, 1).float()
        self.feature_mean.copy_(flat.mean(0))
        self.feature_scale.copy_(1 / flat.var(dim=0, correction=0).mean().sqrt().clamp_min(1e-6))

    def start(self, features: Tensor) -> State:
        """The state before the first word. features (N, P, C)."""
        regions = (features.to(self.feature_mean.dtype) - self.feature_mean) * self.feature_scale  # (N, P, C)
        regions = self.dropout(torch.relu(self.region(regions) + self.place))  # (N, P, H)
        v = regions.mean(dim=1)  # (N, H)
        initial = torch.tanh(self.image_to_states(v)).view(len(v), self.config.layers, self.states, -1)
        hidden = tuple(tuple(h[None].contiguous() for h in layer.unbind(1)) for layer in initial.unbind(1))
        keys = tuple(attention.key(regions) for attention in self.attentions)
        return State(hidden, self.image_to_input(v), regions, keys)

    def run(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads the ids `words` (N, T) from `state`: what the next words follow from, (N, T, H), and the new state."""
        h = self.dropout(self.embed(words) + state.image[:, None])  # (N, T, E)
        after = []
        for i, cell in enumerate(self.cells):
            # torch's RNN takes and gives its state as one tensor, its LSTM as a pair; here both are tuples.
            before = state.hidden[i]
            h, last = cell(h, before if self.states == 2 else before[0])  # (N, T, H)
            after.append(last if self.states == 2 else (last,))
            if self.attentions:
                context, _ = self.attentions[i](h, state.keys[i], state.regions)  # (N, T, H)
                h = h + context
            h = self.dropout(h)
        return h, replace(state, hidden=tuple(after))

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads one word each, `words` (N,): log-probabilities of the next (N, V), and the state after it.

        What may never be written, <pad>, <start> and <unk>, has probability 0.
        """
        h, state = self.run(words[:, None], state)
        log_p = torch.log_softmax(self.output(h[:, 0]), dim=-1)
        log_p[:, [PAD, START, UNKNOWN]] = float("-inf")
        return log_p, state

    def forward(self, features: Tensor, image_rows: Tensor, captions: Tensor) -> Tensor:
        """Scores of every word of `captions` but its first, teacher-forced.

        features (I, P, C), each image once; image_rows (N,) says whose captions they are; captions (N, T) from
        <start> on, padded -> (words, V), padding left out, in the order of
        `captions[:, 1:][captions[:, 1:] != PAD]`.
        """
        h, _ = self.run(captions[:, :-1], self.start(features).select(image_rows))  # (N, T - 1, H)
        return self.output(h[captions[:, 1:] != PAD])
