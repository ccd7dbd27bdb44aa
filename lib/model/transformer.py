"""The body of a transformer decoder (Vaswani et al. 2017, "Attention is all you need"), with pre-norm as in GPT-2.

    token_t --> E --(+)--> [ block 1 ] --> ... --> [ block L ] --> norm --> h_t
                     ^
    v --> W_i v -----+     v is the mean of the regions
    position t ------+

    A block adds to its input x (N, T, H), one after another:

        x = x + attention(norm(x))           of each token to the tokens up to itself
        x = x + region_attention(norm(x))    of each token to the regions of the image; only if attention: additive
        x = x + mlp(norm(x))                 of each token alone

    attention: q = x W_q, k = y W_k, v = y W_v, split into heads of D numbers each; per head softmax(q k^T / sqrt(D)) v

An RNN carries a state of fixed size from token to token. A transformer instead attends to the keys k and values v of
all earlier tokens. In training, all tokens of a caption are computed at once, and a mask hides the later tokens. In
decoding, the keys and values of earlier tokens are kept in the state (a key-value cache), so that a step computes one
token only. This gives the same result, because no token depends on a later one.

Shapes: see `lib.model.state`; S keys (tokens or regions), D = H / heads.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lib.model.layers import Dropout, Linear
from lib.model.state import DecoderConfig, DecoderState

_HEAD_SIZE = 64  # D, if H is a multiple of it


def num_heads(hidden: int) -> int:
    """Return the largest divisor of `hidden` for which a head has _HEAD_SIZE numbers or more."""
    return next(heads for heads in range(max(1, hidden // _HEAD_SIZE), 0, -1) if hidden % heads == 0)


class Attention(nn.Module):
    """Multi-head attention of T queries to S keys and values."""

    def __init__(self, hidden: int):
        super().__init__()
        self.heads = num_heads(hidden)
        self.query = Linear(hidden, hidden)
        # No bias: a bias of the keys does not change the softmax, so its gradient is only rounding, which Adam would
        # amplify. A bias of the values would do the same as that of the output.
        self.key_value = Linear(hidden, 2 * hidden, bias=False)
        self.output = Linear(hidden, hidden)

    def keys_and_values(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (N, heads, S, D) of y (N, S, H)."""
        keys, values = self.key_value(y).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the attended values (N, T, H) for x (N, T, H), and the queries (N, heads, T, D).

        keys and values (N, heads, S, D). `mask` (T, S) is true if the query may attend to the key.
        """
        queries = self._split(self.query(x))
        attended = scaled_dot_product_attention(queries, keys, values, mask)  # (N, heads, T, D)
        return self.output(attended.transpose(1, 2).flatten(2)), queries

    def _split(self, x: Tensor) -> Tensor:
        """Split x (N, T, H) into heads (N, heads, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention to earlier tokens, attention to regions, and an MLP."""

    def __init__(self, config: DecoderConfig, dropout: Dropout):
        super().__init__()
        hidden = config.hidden_size
        self.norm = nn.LayerNorm(hidden)
        self.attention = Attention(hidden)
        if config.attends:
            self.region_norm = nn.LayerNorm(hidden)
            self.region_attention = Attention(hidden)
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(Linear(hidden, 4 * hidden), nn.GELU(), Linear(4 * hidden, hidden))
        self.dropout = dropout

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, ...], regions: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return the new x (N, T, H), the keys and values of all tokens so far, and the last queries (N, heads, T, D).

        `past` has the keys and values (N, heads, S, D) of the earlier tokens, and `regions` those of the regions
        (N, heads, P, D). Each may be empty. With regions, the queries are those to the regions.
        """
        y = self.norm(x)
        new = self.attention.keys_and_values(y)  # (N, heads, T, D) each
        cache = tuple(torch.cat(pair, dim=2) for pair in zip(past, new, strict=True)) if past else new
        attended, queries = self.attention(y, *cache, mask)
        x = x + self.dropout(attended)
        if regions:
            attended, queries = self.region_attention(self.region_norm(x), *regions)
            x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), cache, queries


@torch.no_grad()
def _last_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the attention weights (N, S) of the last query, on average over the heads. (N, heads, ..., D) each.

    scaled_dot_product_attention does not return its weights.
    """
    scores = queries[:, :, -1:] @ keys.mT / queries.shape[-1] ** 0.5  # (N, heads, 1, S)
    return torch.softmax(scores, dim=-1).mean(dim=1)[:, 0]


class Transformer(nn.Module):
    """A stack of blocks.

    In a `DecoderState`, `captions` has the keys and values of the tokens so far for each block, (N, heads, T, D) each;
    it is empty before the first token. `images` has the image's part of the input (I, E), and with attention to regions
    the keys and values of the regions for each block, (I, heads, P, D) each.
    """

    def __init__(self, config: DecoderConfig, dropout: Dropout):
        super().__init__()
        channels, embedding, hidden = config.feature_size, config.embedding_size, config.hidden_size
        self.attends = config.attends
        self.image_to_input = Linear(channels, embedding)
        self.embed = nn.Embedding(config.vocabulary_size, embedding)
        self.position = nn.Parameter(0.1 * torch.randn(config.max_length + 1, embedding))  # <start> is position 0
        self.project = Linear(embedding, hidden) if embedding != hidden else nn.Identity()
        if self.attends:
            self.region_position = nn.Parameter(0.1 * torch.randn(config.num_regions, channels))
            self.region_project = Linear(channels, hidden)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden)
        self.dropout = dropout

    def init_state(self, regions: Tensor) -> DecoderState:
        """Return the state before the first token, with one caption per image. regions (I, P, C)."""
        v = regions.mean(dim=1)  # (I, C)
        keys_and_values: list[Tensor] = []
        if self.attends:
            y = self.region_project(regions + self.region_position)  # (I, P, H)
            blocks = cast("Iterable[Block]", self.blocks)
            keys_and_values = [part for block in blocks for part in block.region_attention.keys_and_values(y)]
        return DecoderState(
            captions=(),
            images=(self.image_to_input(v), *keys_and_values),
            image_index=torch.arange(len(v), device=v.device),
            attention_weights=v.new_empty(len(v), 0),
        )

    def forward(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read token_ids (N, T), starting in `state`. Return h (N, T, H) and the new state."""
        image_input, *regions = (part.index_select(0, state.image_index) for part in state.images)
        start = state.captions[0].shape[2] if state.captions else 0  # position of the first token
        steps, device = token_ids.shape[1], token_ids.device
        # The tokens that each token attends to: all earlier ones and itself. A single step attends to all tokens.
        mask = torch.ones(steps, start + steps, dtype=torch.bool, device=device).tril(start) if steps > 1 else None
        # Captions longer than in training use the last position again.
        positions = torch.arange(start, start + steps, device=device).clamp_max(len(self.position) - 1)
        position = self.position[positions]  # (T, E)
        x = self.project(self.dropout(self.embed(token_ids) + image_input[:, None] + position))  # (N, T, H)
        captions: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            pair = slice(2 * i, 2 * i + 2)  # keys and values of this block
            x, cache, queries = block(x, mask, state.captions[pair], tuple(regions[pair]))
            captions += cache
        weights = _last_weights(queries, regions[-2]) if self.attends else state.attention_weights
        return self.dropout(self.norm(x)), replace(state, captions=tuple(captions), attention_weights=weights)
