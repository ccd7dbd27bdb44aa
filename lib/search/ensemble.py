"""Several models that decode as one."""

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
from lib.model.decoder import Decoder, State
from lib.model.decoding import Model
from lib.model.saved import backbone_folder
from lib.runtime.device import device
from lib.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class EnsembleState:
    """Where each of the decoders stands."""

    states: tuple[State, ...]

    @property
    def attention_weights(self) -> Tensor:
        """The mean of the decoders' weights, (N, P); (N, 0) unless all attend, and to the same places."""
        looked = [state.attention_weights for state in self.states]
        if len({weights.shape for weights in looked}) > 1:
            return looked[0].new_empty(len(looked[0]), 0)
        return torch.stack(looked).mean(dim=0)

    def select(self, rows: Tensor) -> "EnsembleState":
        """The state of the captions `rows` (M,), in that order, repeats allowed."""
        return EnsembleState(tuple(state.select(rows) for state in self.states))


class Ensemble:
    """Takes the place of a `Decoder` in decoding: the probability of a word is the mean of the decoders'."""

    def __init__(self, decoders: Sequence[Decoder]):
        """Decoders of one vocabulary, which read the same features. Raises UserError where the sizes show otherwise."""
        self.decoders = tuple(decoders)
        for size in ("vocabulary_size", "num_regions", "feature_size"):
            sizes = [getattr(decoder.config, size) for decoder in decoders]
            if len(set(sizes)) > 1:
                raise UserError(
                    f"these models cannot decode as one: their {size} is {', '.join(map(str, sizes))}; "
                    "train them on the same captions and features"
                )

    def init_state(self, features: Tensor) -> EnsembleState:
        """The state before the first word. features (N, P, C)."""
        return EnsembleState(tuple(decoder.init_state(features) for decoder in self.decoders))

    def step(self, words: Tensor, state: EnsembleState) -> tuple[Tensor, EnsembleState]:
        """Reads one word each, `words` (N,): log-probabilities of the next (N, V), and the state after it."""
        steps = [decoder.step(words, own) for decoder, own in zip(self.decoders, state.states, strict=True)]
        log_p = torch.stack([each for each, _ in steps])  # (decoders, N, V)
        mean = torch.logsumexp(log_p, dim=0) - math.log(len(steps))
        return mean, EnsembleState(tuple(own for _, own in steps))


def build_ensemble(
    folders: Sequence[Path], loaded: Sequence[tuple[Decoder, Vocabulary]]
) -> tuple[Model[Any], Vocabulary]:
    """The decoders that `load_decoder` gave for `folders`, to decode as one, and their vocabulary; of one, itself.

    Raises UserError where they are not of one vocabulary, or were not trained on the same features.
    """
    decoders = [decoder.to(device()) for decoder, _ in loaded]
    (_, vocabulary), *others = loaded
    if not others:
        return decoders[0], vocabulary
    first, sees = folders[0], _what_sees(folders[0])
    for folder, (_, known) in zip(folders[1:], others, strict=True):
        if known.words != vocabulary.words:
            raise UserError(f"{first} and {folder} cannot decode as one: they know different words")
        if _what_sees(folder) != sees:
            raise UserError(
                f"{first} and {folder} cannot decode as one: their CNNs, or features.pca_components, differ"
            )
    return Ensemble(decoders), vocabulary


def _what_sees(folder: Path) -> dict[str, str]:
    """What makes a captioner's features, the CNN and the projection if there is one: digests of the files by name."""
    found = {}
    for path in (*backbone_folder(folder).glob("*"), pca_path(folder)):
        if path.exists():
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
