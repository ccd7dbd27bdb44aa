"""Several decoders that decode as one model."""

import hashlib
import math
from collections.abc import Sequence
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


class EnsembleState(tuple[DecoderState, ...]):
    """The state of each decoder."""

    @property
    def attention_weights(self) -> Tensor:
        """Return the mean attention weights (N, P); (N, 0) unless all decoders attend to the same number of regions."""
        weights = [state.attention_weights for state in self]
        if len({part.shape for part in weights}) > 1:
            return weights[0].new_empty(len(weights[0]), 0)
        return torch.stack(weights).mean(dim=0)

    def select(self, rows: Tensor) -> "EnsembleState":
        return EnsembleState(state.select(rows) for state in self)


class Ensemble:
    """Averages the token probabilities of decoders that share a vocabulary and the kind of features."""

    def __init__(self, decoders: Sequence[Decoder]):
        self.decoders = decoders

    def init_state(self, features: Tensor) -> EnsembleState:
        return EnsembleState(decoder.init_state(features) for decoder in self.decoders)

    def step(self, tokens: Tensor, state: EnsembleState) -> tuple[Tensor, EnsembleState]:
        steps = [decoder.step(tokens, part) for decoder, part in zip(self.decoders, state, strict=True)]
        log_probs = torch.stack([part for part, _ in steps])  # (decoders, N, V)
        mean = torch.logsumexp(log_probs, dim=0) - math.log(len(steps))
        return mean, EnsembleState(part for _, part in steps)


def build_ensemble(folders: list[Path], loaded: list[tuple[Decoder, Vocabulary]]) -> tuple[CaptionModel, Vocabulary]:
    """Combine the results of `load_decoder` for each of `folders`. A single decoder is returned unchanged.

    Raises UserError if the models differ in vocabulary or features.
    """
    decoders, vocabularies = zip(*loaded, strict=True)
    for decoder in decoders:
        decoder.to(device())
    if len(decoders) == 1:
        return decoders[0], vocabularies[0]
    sources = list(map(_feature_source, folders, decoders))
    for folder, vocabulary, source in zip(folders, vocabularies, sources, strict=True):
        if vocabulary.words != vocabularies[0].words or source != sources[0]:
            differing = "CNNs, features.kind or features.pca_components" if source != sources[0] else "vocabularies"
            fix = "Remove one of the two from the folder generate.ensemble, or from --model."
            raise UserError(f"{folders[0]} and {folder} cannot decode together: their {differing} differ. {fix}")
    return Ensemble(decoders), vocabularies[0]


def _feature_source(folder: Path, decoder: Decoder) -> tuple[Any, ...]:
    """Return what identifies a model's features: their shape, and the digests of the CNN and, if any, of the PCA."""
    paths = sorted([*backbone_folder(folder).glob("*"), pca_path(folder)])
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths if path.exists()]
    return decoder.config.num_regions, decoder.config.feature_size, digests
