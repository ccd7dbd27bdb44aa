"""What is trained on or validated with: features of images, and their captions as tokens and as ids."""

from collections.abc import Iterable
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

_DECODING_BATCH = 256  # images


@dataclass(frozen=True)
class Split:
    """One split: the images' features (I, P, C), their ids and reference tokens, and their captions as ids."""

    features: Features | Tensor  # never taken whole: what is on the disk may be larger than the memory
    references: dict[int, list[list[str]]]  # by image id, in the order of `features`
    captions: CaptionSet

    def to(self, device: torch.device) -> "Split":
        """The same with all that training reads again and again on `device`; grids stay where they are."""
        pooled = self.features.shape[1] == 1
        return Split(
            self.features[:].to(device) if pooled else self.features, self.references, self.captions.to(device)
        )

    @cached_property
    def scorer(self) -> Scorer:
        """Of captions of all images."""
        return Scorer(self.references)

    def features_of(self, images: np.ndarray) -> Tensor:
        """The features of some images, given by their rows, on the device, (n, P, C)."""
        return self.features[torch.from_numpy(images)].to(device())

    def parts(self) -> Iterable[Tensor]:
        """All features, in order, some images at a time, (n, P, C), from where they are."""
        return self.features.split(_DECODING_BATCH)


def greedy_scores(decoder: Decoder, vocabulary: Vocabulary, val: Split, max_length: int) -> dict[str, float]:
    """The scores of the captions that greedy search writes for the val split: those of `lib.scoring`, called val_..."""
    # Whole batches are dealt out: what is written does not depend on the number of processes, rounding included.
    firsts = shard(range(0, len(val.references), _DECODING_BATCH))
    parts = (val.features[first : first + _DECODING_BATCH].to(device()) for first in firsts)
    own = [caption for part in parts for caption in greedy(decoder, part, max_length)]
    written = [vocabulary.decode(caption.token_ids) for caption in gather_hypotheses(own)]
    scores = corpus_scores(val.scorer.measure(written))
    return {f"val_{name}": value for name, value in scores.items()}
