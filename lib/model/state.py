"""What the decoder and its body share: the architecture, and the state of captions during decoding.

Shapes: I images, N captions, T tokens, P regions (1 for a pooled vector), C features per region, E embedding,
H hidden, V vocabulary.
"""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of the decoder and the maximum length of its captions. It is saved next to the weights."""

    num_regions: int  # P
    feature_size: int  # C
    vocabulary_size: int  # V
    cell: str  # lstm, rnn, transformer
    implementation: str  # scratch, torch; for lstm and rnn only
    attention: str  # none, additive; in a transformer, `additive` is attention by dot products
    embedding_size: int  # E
    hidden_size: int  # H
    dropout: float
    max_length: int = 20  # maximum words of a caption in training; the default is for model folders of earlier versions
    layers: int = 2  # for transformer only

    @property
    def attends(self) -> bool:
        """Return whether the decoder attends to the regions of the image, not only to their mean."""
        return self.attention == "additive"


@dataclass(frozen=True)
class DecoderState:
    """The state after some tokens of N captions of I images. The body defines what `captions` and `images` hold."""

    captions: tuple[Tensor, ...]  # each (N, ...): what the body remembers of the tokens so far
    images: tuple[Tensor, ...]  # each (I, ...): what the body computes once per image
    image_index: Tensor  # (N,): the image of each caption
    attention_weights: Tensor  # (N, P): weights at the last step; (N, 0) before the first step and without attention

    def select(self, rows: Tensor) -> "DecoderState":
        """Return the state of the captions `rows` (M,). Rows may repeat. Image tensors are shared, not copied."""
        return replace(
            self,
            captions=tuple(part.index_select(0, rows) for part in self.captions),
            image_index=self.image_index[rows],
            attention_weights=self.attention_weights[rows],
        )
