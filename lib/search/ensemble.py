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
        """Combine decoders of one vocabulary and one kind of features. Raises UserError if their sizes differ."""
        self.decoders = tuple(decoders)
        for size in ("vocabulary_size", "num_regions", "feature_size"):
            sizes = [getattr(decoder.config, size) for decoder in decoders]
            if len(set(sizes)) > 1:
                raise UserError(
                    f"ensemble: the models differ in {size}: {', '.join(map(str, sizes))}; "
                    "train them on the same captions and features"
                )

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

    Raises UserError if the models differ in vocabulary, CNN or PCA.
    """
    decoders = [decoder.to(device()) for decoder, _ in loaded]
    vocabulary = loaded[0][1]
    if len(decoders) == 1:
        return decoders[0], vocabulary
    first, extractor = folders[0], _feature_digests(folders[0])
    for folder, (_, other) in zip(folders[1:], loaded[1:], strict=True):
        if other.words != vocabulary.words:
            raise UserError(f"{first} and {folder} cannot decode together: their vocabularies differ")
        if _feature_digests(folder) != extractor:
            raise UserError(f"{first} and {folder} cannot decode together: their CNNs or features.pca_components differ")
    return Ensemble(decoders), vocabulary


def _feature_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that determines a model's features: its CNN and, if it has one, its PCA."""
    paths = (*backbone_folder(folder).glob("*"), pca_path(folder))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}
