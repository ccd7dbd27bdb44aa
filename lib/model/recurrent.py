"""The body of an RNN or LSTM decoder: from the tokens so far to the input of the output layer, h.

    v, the mean of the regions --> tanh(W_s v) = h_0 of the first cell; for an LSTM also c_0

    v --> W_i v ----(+)--> x_t --> [ cell ] --> h_t                                          attention: none
                     ^
    token_t --> E ---+

           x_t --> [ cell ] --> h_t --+-----------------------+                              attention: additive
                                      |                       +--> [ language cell ] --> h_t
                                      +--> attend to regions -+

The image sets the initial state and is an input at every step: this combines init-inject and par-inject of Tanti et al.
2018, "Where to put the image in an image caption generator". With attention, the language cell reads the output of the
first cell and the attended context, as in the top-down model of Anderson et al. 2018. Unlike in that model, the first
cell does not read the state of the language cell. So in training each cell runs once over all tokens of a caption.
Dropout is applied to the inputs and outputs of the cells, not to the recurrence, as in Zaremba et al. 2014.

Shapes: see `lib.model.state`.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lib.cells import CELLS
from lib.model.attention import AdditiveAttention
from lib.model.layers import Dropout, Linear
from lib.model.state import DecoderConfig, DecoderState

CellState = tuple[Tensor, ...]  # (h,) of an RNN, (h, c) of an LSTM; each (N, H)


class Recurrent(nn.Module):
    """One recurrent cell, or two with attention between them.

    In a `DecoderState`, `captions` has the state of the cell and then that of the language cell. `images` has the
    image's part of the input x_t (I, E), and with attention the keys and values of the regions, each (I, P, H).
    """

    def __init__(self, config: DecoderConfig, dropout: Dropout):
        super().__init__()
        channels, embedding, hidden = config.feature_size, config.embedding_size, config.hidden_size
        self.attends = config.attends
        self.num_states = 2 if config.cell == "lstm" else 1  # number of tensors in a CellState
        self.image_to_input = Linear(channels, embedding)
        self.image_to_state = Linear(channels, self.num_states * hidden)
        self.embed = nn.Embedding(config.vocabulary_size, embedding)
        cell = CELLS[config.cell, config.implementation]
        self.cell = cell(embedding, hidden, batch_first=True)
        if self.attends:
            self.attention = AdditiveAttention(config.num_regions, channels, hidden)
            self.language = cell(2 * hidden, hidden, batch_first=True)
        self.dropout = dropout

    def init_state(self, regions: Tensor) -> DecoderState:
        """Return the state before the first token, with one caption per image. regions (I, P, C)."""
        v = regions.mean(dim=1)  # (I, C)
        cell = torch.tanh(self.image_to_state(v)).chunk(self.num_states, dim=1)  # one or two tensors (I, H)
        return DecoderState(
            captions=(*cell, *(torch.zeros_like(part) for part in cell if self.attends)),
            images=(self.image_to_input(v), *(self.attention.regions(regions) if self.attends else ())),
            image_index=torch.arange(len(v), device=v.device),
            attention_weights=v.new_empty(len(v), 0),
        )

    def forward(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read token_ids (N, T), starting in `state`. Return h (N, T, H) and the new state."""
        image_input, *regions = state.images
        cell, language = state.captions[: self.num_states], state.captions[self.num_states :]
        attention_weights = state.attention_weights
        image = image_input.index_select(0, state.image_index)  # (N, E)
        x = self.dropout(self.embed(token_ids) + image[:, None])  # (N, T, E)
        h, cell = self._run_cell(self.cell, x, cell)  # (N, T, H)
        if self.attends:
            context, weights = self.attention(h, *regions, state.image_index)  # (N, T, H), (N, T, P)
            attention_weights = weights[:, -1]  # (N, P)
            x = self.dropout(torch.cat([h, context], dim=-1))  # (N, T, 2H)
            h, language = self._run_cell(self.language, x, language)  # (N, T, H)
        captions = (*cell, *language)
        return self.dropout(h), replace(state, captions=captions, attention_weights=attention_weights)

    def _run_cell(self, cell: nn.Module, x: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Run a cell over x (N, T, ...). torch's cells have a first dimension of layers, here 1, in their state.

        The state of nn.RNN is a tensor, that of nn.LSTM is a pair of tensors.
        """
        first = [part[None].contiguous() for part in state]  # each (1, N, H)
        h, last = cell(x, tuple(first) if self.num_states == 2 else first[0])
        return h, tuple(part[0] for part in (last if self.num_states == 2 else (last,)))
