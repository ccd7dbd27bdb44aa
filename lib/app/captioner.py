"""From pictures to sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.core.errors import UserError, readable_errors
from lib.core.zips import MAX_IMAGE_BYTES
from lib.features.pca import PCA, pca_path
from lib.model.decoder import Decoder
from lib.model.decoding import CaptionModel, Hypothesis
from lib.model.saved import backbone_folder, check_features, load_decoder
from lib.runtime.device import device
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.search.ensemble import build_ensemble
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import Backbone
from lib.vision.images import ImageError, decode, to_rgb

if TYPE_CHECKING:  # who does not rerank does not wait for pandas
    from lib.search.consensus import Consensus

BATCH = 32  # pictures that go through the CNN and the beam search together

# A picture, the file of one, or what `Captioner.see` made of it.
Picture = Image.Image | str | Path | np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """One of the captions that beam search has found for a picture."""

    text: str
    tokens: list[str]  # T of them
    score: float  # log-probability of the tokens and of the end after them, in nats
    mean_score: float  # the same for each of them, in the mean
    attention: Tensor  # (T, P): how much of its look at the picture each place had; (T, 0) if the model does not attend


@dataclass
class Captioner:
    """A CNN, the decoder that was trained on its features, and the words it knows.

    What writes is that decoder, or an ensemble of it and others.
    """

    backbone: Backbone
    projection: PCA | None
    decoder: Decoder
    vocabulary: Vocabulary
    writer: CaptionModel[Any]

    @classmethod
    def load(cls, folder: str | Path, *others: str | Path) -> Self:
        """Reads what the finetune stage wrote, and puts it on the device that `lib.runtime.device` names.

        With `others`, of the same captions and features, all write together, as one: see `lib.search.ensemble`.
        Raises UserError where a folder holds no model, a damaged one, or one of another version, or where the models
        do not go together.
        """
        folders = [Path(folder), *map(Path, others)]
        first = folders[0]
        backbone = Backbone.load(backbone_folder(first)).fuse_batchnorm()
        with readable_errors(pca_path(first)):
            projection = PCA.load(first) if pca_path(first).exists() else None
        loaded = [load_decoder(each) for each in folders]
        writer, vocabulary = build_ensemble(folders, loaded)
        backbone.network.to(device())
        return cls(backbone, projection, loaded[0][0], vocabulary, writer)

    def caption(
        self,
        images: Sequence[Picture],
        *,
        beam_size: int = 5,
        max_length: int = 20,
        length_penalty: float = 1.0,
        min_length: int = 0,
        no_repeat_ngram_size: int = 0,
        consensus: "Consensus | None" = None,
    ) -> list[list[Candidate]]:
        """Up to `beam_size` captions of each image, the best first; a beam of 1 is greedy search.

        An image is a file's path, or a PIL image of any kind, either taken as a viewer would show it; or what `see`
        gave. Captions have from `min_length` to `max_length` words; `length_penalty` is that of `lib.search.beam`:
        0 favours short captions, 1 ranks by the mean score; no `no_repeat_ngram_size` words in a row come twice, unless it is 0.
        A `consensus` ranks the beam anew.

        Raises UserError for an image that cannot be read, a beam or captions of less than 1, and a CNN and a decoder
        that do not fit together.
        """
        if beam_size < 1 or max_length < 1:
            raise UserError(
                f"a beam of {beam_size} and captions of up to {max_length} words: each should be at least 1"
            )
        found: list[list[Candidate]] = []
        for first in range(0, len(images), BATCH):
            pixels = np.stack([self.see(image) for image in images[first : first + BATCH]])
            features = self._features(torch.from_numpy(pixels))
            beams = beam_search(
                self.writer,
                features,
                beam_size,
                max_length,
                length_penalty,
                DecodingConstraints(min_length, no_repeat_ngram_size).apply,
            )
            if consensus:
                beams = consensus.rerank(features, beams, length_penalty)
            found += [[self._candidate(caption) for caption in beam] for beam in beams]
        return found

    def see(self, image: Picture) -> np.ndarray:
        """An image as the CNN gets it, uint8 (size, size, 3): small, however large the image. Raises UserError."""
        if isinstance(image, np.ndarray):
            return image
        preprocess = self.backbone.preprocess
        return preprocess.pixels(open_image(image, preprocess.min_decode_size))

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, size, size, 3) -> (N, P, C)."""
        kind = "pooled" if self.decoder.config.num_regions == 1 else "grid"
        # The decoder was trained on features that were kept as float16, before and after projection: round alike.
        features = self.backbone.features(pixels.to(device()), kind).half()
        if self.projection:
            features = self.projection(features).half()
        check_features(self.decoder.config, features.shape, self.backbone.name)
        return features

    def _candidate(self, caption: Hypothesis) -> Candidate:
        tokens = self.vocabulary.decode(caption.token_ids)
        mean = caption.log_prob / len(caption.token_ids)
        return Candidate(" ".join(tokens), tokens, caption.log_prob, mean, caption.attention[: len(tokens)])


def open_image(image: Image.Image | str | Path, min_decode_size: int | None = None) -> Image.Image:
    """A PIL image, or the picture in a file, as `lib.vision.images.decode` gives it. Raises UserError."""
    try:
        if isinstance(image, Image.Image):
            return to_rgb(image)
        with Path(image).open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)  # of what may have no end, like a pipe
        if len(content) > MAX_IMAGE_BYTES:
            raise ImageError(f"larger than {MAX_IMAGE_BYTES >> 20} MB")
        return decode(content, min_decode_size)
    except (OSError, ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{image}: {reason or error}") from error
