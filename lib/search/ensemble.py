"""Several decoders that decode as one model."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.core.errors import UserError
from lib.features.pca import pca_path
from lib.model.decoder import Decoder, DecoderState
from lib.model.decoding import CaptionModel
from lib.model.saved import backbone_folder
from lib.runtime.device import device
from lib.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class EnsembleState:
    """The states of the decoders."""

    states: tuple[DecoderState, ...]

    @property
    def attention_weights(self) -> Tensor:
        """Return the mean attention weights (N, P); (N, 0) unless all decoders attend to the same number of regions."""
        weights = [state.attention_weights for state in self.states]
        if len({part.shape for part in weights}) > 1:
            return weights[0].new_empty(len(weights[0]), 0)
        return torch.stack(weights).mean(dim=0)

    def select(self, rows: Tensor) -> "EnsembleState":
        """Return the state of the captions `rows` (M,), which may repeat."""
        return EnsembleState(tuple(state.select(rows) for state in self.states))


class Ensemble:
    """A `CaptionModel` that averages the token probabilities of its decoders."""

    def __init__(self, decoders: Sequence[Decoder]):
        """Combine decoders of one vocabulary and one kind of features; `build_ensemble` checks that."""
        self.decoders = tuple(decoders)

    def init_state(self, features: Tensor) -> EnsembleState:
        """Return the state before the first token. features (N, P, C)."""
        return EnsembleState(tuple(decoder.init_state(features) for decoder in self.decoders))

    def step(self, tokens: Tensor, state: EnsembleState) -> tuple[Tensor, EnsembleState]:
        """Read tokens (N,). Return the log-probabilities of the next ones (N, V) and the new state."""
        steps = [decoder.step(tokens, part) for decoder, part in zip(self.decoders, state.states, strict=True)]
        log_probs = torch.stack([part for part, _ in steps])  # (decoders, N, V)
        mean = torch.logsumexp(log_probs, dim=0) - math.log(len(steps))
        return mean, EnsembleState(tuple(part for _, part in steps))


def build_ensemble(
    folders: Sequence[Path], loaded: Sequence[tuple[Decoder, Vocabulary]]
) -> tuple[CaptionModel[Any], Vocabulary]:
    """Combine what `load_decoder` returned for each of `folders`; a single decoder stays as it is.

    Raises UserError if the models differ in vocabulary or features.
    """
    decoders = [decoder.to(device()) for decoder, _ in loaded]
    vocabulary = loaded[0][1]
    if len(decoders) == 1:
        return decoders[0], vocabulary
    first_source = _feature_source(folders[0], decoders[0])
    for folder, decoder, (_, other) in zip(folders[1:], decoders[1:], loaded[1:], strict=True):
        together = f"{folders[0]} and {folder} cannot decode together"
        if other.words != vocabulary.words:
            raise UserError(f"{together}: their vocabularies differ")
        if _feature_source(folder, decoder) != first_source:
            raise UserError(f"{together}: their CNNs, features.kind or features.pca_components differ")
    return Ensemble(decoders), vocabulary


def _feature_source(folder: Path, decoder: Decoder) -> tuple[Any, ...]:
    """Return what identifies a model's features: their shape and the digests of its CNN and its PCA, if it has one."""
    paths = sorted([*backbone_folder(folder).glob("*"), pca_path(folder)])
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths if path.exists()]
    return decoder.config.num_regions, decoder.config.feature_size, digests
