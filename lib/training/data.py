"""The data of training and validation: image features, and captions as tokens and as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lib.features.store import Features
from lib.model.decoder import Decoder
from lib.model.decoding import gather_hypotheses, greedy
from lib.runtime.device import device
from lib.runtime.distributed import shard
from lib.scoring import Scorer, corpus_scores
from lib.text.vocabulary import Vocabulary
from lib.training.batches import CaptionSet

_BATCH = 256  # images


@dataclass(frozen=True)
class Split:
    """The features (I, P, C) of a split's images, their ids and reference tokens, and the captions as token ids."""

    features: Features | Tensor  # grid features stay on disk, because they may not fit in memory
    references: dict[int, list[list[str]]]  # image id -> token lists, in the order of `features`
    captions: CaptionSet

    def to(self, device: torch.device) -> "Split":
        """Return the same split with token ids and pooled features on `device`."""
        pooled = self.features.shape[1] == 1
        features = self.features[:].to(device) if pooled else self.features
        return Split(features, self.references, self.captions.to(device))

    @cached_property
    def scorer(self) -> Scorer:
        """Return a scorer with the references of all images."""
        return Scorer(self.references)

    def features_of(self, images: np.ndarray) -> Tensor:
        """Return the features (n, P, C) of the rows `images` (n,), on `device()`."""
        return self.features[torch.from_numpy(images)].to(device())


def greedy_captions(decoder: Decoder, vocabulary: Vocabulary, split: Split, max_length: int) -> list[list[str]]:
    """Return the tokens of a greedy caption of each image of the split, in all processes."""
    # Each process gets whole batches, so that the captions do not depend on the number of processes, not even by
    # rounding.
    starts = shard(range(0, len(split.references), _BATCH))
    batches = (split.features[start : start + _BATCH].to(device()) for start in starts)
    own = [hypothesis for batch in batches for hypothesis in greedy(decoder, batch, max_length)]
    return [vocabulary.decode(hypothesis.token_ids) for hypothesis in gather_hypotheses(own)]


def val_scores(val: Split, captions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the scores (see `lib.scoring`) of a caption of each val image, with names that begin with val_.

    Captions and references are in the vocabulary's spelling. The stage evaluate scores both with `scoring_tokens` (see
    `lib.text.tokenizer`), so its scores differ a little if captions have brackets, currencies or capitals.
    """
    return {f"val_{name}": value for name, value in corpus_scores(val.scorer.measure(captions)).items()}
