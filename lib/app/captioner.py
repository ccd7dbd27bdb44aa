"""Caption images with a trained model."""

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

if TYPE_CHECKING:  # its import of pandas takes half a second
    from lib.search.consensus import Consensus

BATCH_SIZE = 32  # images

# The path of an image file, a PIL image, or the pixels that `Captioner.pixels` returned.
ImageInput = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """A caption that beam search found for an image."""

    text: str
    tokens: list[str]  # T tokens
    score: float  # log-probability of the tokens and the end token, in nats
    mean_score: float  # score / number of tokens, with the end token
    attention: Tensor  # (T, P): attention weights of P regions; (T, 0) if the model has no attention

    def to_json(self) -> dict[str, Any]:
        """Return all fields but the attention weights."""
        return {"text": self.text, "tokens": self.tokens, "score": self.score, "mean_score": self.mean_score}


@dataclass
class Captioner:
    """A CNN, the decoder that was trained on its features, and the vocabulary."""

    backbone: Backbone
    pca: PCA | None
    decoder: Decoder
    vocabulary: Vocabulary
    model: CaptionModel  # generates the captions: `decoder`, or an ensemble of it and others

    @classmethod
    def load(cls, folder: str | Path, *others: str | Path) -> Self:
        """Load what the finetune stage wrote, onto the device of `lib.runtime.device`.

        With `others`, decode with an ensemble of all models. Raises UserError if a folder has no complete model of
        this version, or if the models differ in vocabulary or features.
        """
        folders = [Path(folder), *map(Path, others)]
        first = folders[0]
        backbone = Backbone.load(backbone_folder(first)).fuse_batchnorm()
        with readable_errors(pca_path(first)):
            pca = PCA.load(first) if pca_path(first).exists() else None
        decoders = [load_decoder(path) for path in folders]
        model, vocabulary = build_ensemble(folders, decoders)
        backbone.network.to(device())
        return cls(backbone, pca, decoders[0][0], vocabulary, model)

    def caption(
        self,
        images: Sequence[ImageInput],
        *,
        beam_size: int = 5,
        max_length: int | None = None,
        length_penalty: float = 1.0,
        min_length: int = 0,
        no_repeat_ngram_size: int = 0,
        consensus: "Consensus | None" = None,
    ) -> list[list[Candidate]]:
        """Return up to `beam_size` captions per image, the best first. A beam of 1 is greedy search.

        Captions have `min_length` to `max_length` words; if None, the limit of the model's training. `length_penalty`
        is explained in `lib.search.beam`: 0 favours short captions, 1 ranks by the mean score. No n-gram of
        `no_repeat_ngram_size` words repeats, unless it is 0. `consensus` reranks the beam. Raises UserError if an
        image cannot be read or the CNN does not fit the decoder.
        """
        if max_length is None:
            max_length = self.decoder.config.max_length
        if min(beam_size, max_length) < 1:
            raise UserError(f"beam_size={beam_size}, max_length={max_length}: both must be at least 1")
        constrain = DecodingConstraints(min_length, no_repeat_ngram_size).apply
        captions: list[list[Candidate]] = []
        for first in range(0, len(images), BATCH_SIZE):
            pixels = np.stack([self.pixels(image) for image in images[first : first + BATCH_SIZE]])
            features = self._features(torch.from_numpy(pixels))
            beams = beam_search(self.model, features, beam_size, max_length, length_penalty, constrain)
            if consensus:
                beams = consensus.rerank(features, beams, length_penalty)
            captions += [[self._candidate(hypothesis) for hypothesis in beam] for beam in beams]
        return captions

    def pixels(self, image: ImageInput) -> np.ndarray:
        """Return an image as the input of the CNN, uint8 (size, size, 3). Raises UserError if it cannot be read."""
        if isinstance(image, np.ndarray):
            return image
        preprocess = self.backbone.preprocess
        return preprocess.pixels(open_image(image, preprocess.min_decode_size))

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (N, size, size, 3) to features (N, P, C)."""
        kind = "pooled" if self.decoder.config.num_regions == 1 else "grid"
        # Round to float16 before and after PCA, because the decoder was trained on features stored as float16.
        features = self.backbone.features(pixels.to(device()), kind).half()
        if self.pca:
            features = self.pca(features).half()
        check_features(self.decoder.config, features.shape, self.backbone.name)
        return features

    def _candidate(self, hypothesis: Hypothesis) -> Candidate:
        tokens = self.vocabulary.decode(hypothesis.token_ids)
        mean_score = hypothesis.log_prob / len(hypothesis.token_ids)
        text = self.vocabulary.tokenizer.join(tokens)
        return Candidate(text, tokens, hypothesis.log_prob, mean_score, hypothesis.attention[: len(tokens)])


def open_image(image: str | Path | Image.Image, min_decode_size: int | None = None) -> Image.Image:
    """Return a file or a PIL image as an upright RGB image. Raises UserError. See `lib.vision.images.decode`."""
    try:
        if isinstance(image, Image.Image):
            return to_rgb(image)
        with Path(image).open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageError(f"more than {MAX_IMAGE_BYTES} bytes")
        return decode(data, min_decode_size)
    except (OSError, ImageError) as error:
        raise UserError(f"{image}: {getattr(error, 'strerror', None) or error}") from error
