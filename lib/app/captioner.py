"""Caption images with a trained model."""

from collections.abc import Iterable
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
from lib.vision.backbones import Backbone, has_cnn
from lib.vision.images import ImageError, decode, to_rgb

if TYPE_CHECKING:  # for type checkers only: this module imports pandas, which takes half a second
    from lib.search.consensus import Consensus

BATCH_SIZE = 32  # images

# One image: the path of a file, a PIL image, or a uint8 array of shape (H, W, 3) for RGB or (H, W) for grey.
ImageInput = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """A caption that beam search found for an image."""

    text: str
    tokens: list[str]  # T tokens
    score: float  # log-probability of the tokens, including the end token, in nats
    mean_score: float  # `score` divided by the number of tokens, including the end token
    attention: Tensor  # (T, P): attention weights of P regions; (T, 0) if the model has no attention

    def to_json(self) -> dict[str, Any]:
        """Return all fields except the attention weights."""
        return {"text": self.text, "tokens": self.tokens, "score": self.score, "mean_score": self.mean_score}


@dataclass
class Captioner:
    """A CNN, the decoder that was trained on its features, and the vocabulary."""

    backbone: Backbone | None  # None if the decoder was trained on ready features; then use `caption_features`
    pca: PCA | None
    decoder: Decoder
    vocabulary: Vocabulary
    model: CaptionModel  # generates the captions: `decoder`, or an ensemble that includes `decoder`

    @classmethod
    def load(cls, folder: str | Path, *others: str | Path) -> Self:
        """Load a model folder that the finetune stage wrote, onto the device of `lib.runtime.device`.

        With `others`, decode with an ensemble of all models. Raises UserError if a folder has no complete model of
        this version, or if the models differ in vocabulary or features.
        """
        folders = [Path(folder), *map(Path, others)]
        first = folders[0]
        backbone = None
        if has_cnn(backbone_folder(first)):
            backbone = Backbone.load(backbone_folder(first)).fuse_batchnorm()
            backbone.network.to(device())
        with readable_errors(pca_path(first)):
            pca = PCA.load(first) if pca_path(first).exists() else None
        decoders = [load_decoder(path) for path in folders]
        model, vocabulary = build_ensemble(folders, decoders)
        return cls(backbone, pca, decoders[0][0], vocabulary, model)

    def caption(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        beam_size: int = 5,
        max_length: int | None = None,
        length_penalty: float = 1.0,
        min_length: int = 0,
        no_repeat_ngram_size: int = 0,
        consensus: "Consensus | None" = None,
    ) -> list[list[Candidate]]:
        """Return up to `beam_size` captions per image, best first. With `beam_size` 1, the search is greedy.

        `images` is one `ImageInput` or several. For one image, the result is a list of one list. Arrays from OpenCV are
        BGR, so pass `image[..., ::-1]`.

        Captions have `min_length` to `max_length` words. If `max_length` is None, it is the maximum length in training.
        `length_penalty` is explained in `lib.search.beam`: 0 favours short captions, 1 ranks by the mean score. If
        `no_repeat_ngram_size` is above 0, no n-gram of this size repeats in a caption. `consensus` reranks the beam.
        Raises UserError if an image cannot be read, if the CNN does not fit the decoder, or if the model has no CNN.
        """
        each = _as_list(images)
        captions: list[list[Candidate]] = []
        for first in range(0, len(each), BATCH_SIZE):
            pixels = np.stack([self.pixels(image) for image in each[first : first + BATCH_SIZE]])
            captions += self.caption_features(
                self.features(pixels),
                beam_size=beam_size,
                max_length=max_length,
                length_penalty=length_penalty,
                min_length=min_length,
                no_repeat_ngram_size=no_repeat_ngram_size,
                consensus=consensus,
            )
        return captions

    def caption_features(
        self,
        features: np.ndarray | Tensor,
        *,
        beam_size: int = 5,
        max_length: int | None = None,
        length_penalty: float = 1.0,
        min_length: int = 0,
        no_repeat_ngram_size: int = 0,
        consensus: "Consensus | None" = None,
    ) -> list[list[Candidate]]:
        """Caption images by their features: (N, P, C), or (N, C) if there is one region per image.

        Pass what the method `features` returns. If the model was trained on ready features, pass features from the same
        source. Options and result are those of `caption`. Raises UserError if the features do not fit the decoder or
        are not finite.
        """
        if max_length is None:
            max_length = self.decoder.config.max_length
        if min(beam_size, max_length) < 1:
            raise UserError(f"beam_size={beam_size}, max_length={max_length}: both must be at least 1")
        # Round to float16 before and after PCA, because the decoder was trained on features stored as float16.
        features = torch.as_tensor(features).to(device()).half()
        if features.dim() == 2:
            features = features[:, None]
        if features.dim() != 3:
            raise UserError(f"features have shape {tuple(features.shape)}, but must have (N, P, C) or (N, C)")
        if not features.isfinite().all():
            source = f"the CNN {self.backbone.name}" if self.backbone else "the CNN that computed them"
            raise UserError(f"some features are not finite in float16. Check {source}.")
        if self.pca:
            self.pca.check(features.shape)
            features = self.pca(features).half()
        check_features(self.decoder.config, features.shape, self.backbone.name if self.backbone else "features")
        constrain = DecodingConstraints(min_length, no_repeat_ngram_size).apply
        captions: list[list[Candidate]] = []
        for batch in features.split(BATCH_SIZE) if len(features) else ():
            beams = beam_search(self.model, batch, beam_size, max_length, length_penalty, constrain)
            if consensus:
                beams = consensus.rerank(batch, beams, length_penalty)
            captions += [[self._candidate(hypothesis) for hypothesis in beam] for beam in beams]
        return captions

    def cnn(self) -> Backbone:
        """Return the CNN. Raises UserError if the model has none."""
        if self.backbone is None:
            shape = f"(N, {self.decoder.config.num_regions}, {self.decoder.config.feature_size})"
            problem = "this model has no CNN, because it was trained on ready features (features.source)"
            fix = f"Pass features {shape} from the same source to Captioner.caption_features."
            raise UserError(f"{problem}. It cannot caption images. {fix}")
        return self.backbone

    def pixels(self, image: ImageInput) -> np.ndarray:
        """Return an image as input for the CNN, uint8 (size, size, 3). Raises UserError if it cannot be read."""
        preprocess = self.cnn().preprocess
        return preprocess.pixels(open_image(image, preprocess.min_decode_size))

    @torch.inference_mode()
    def features(self, pixels: np.ndarray) -> Tensor:
        """Return the CNN's features (N, P, C), in float16, of stacked images uint8 (N, size, size, 3) from `pixels`."""
        kind = "pooled" if self.decoder.config.num_regions == 1 else "grid"
        return self.cnn().features(torch.from_numpy(pixels).to(device()), kind).half()

    def _candidate(self, hypothesis: Hypothesis) -> Candidate:
        tokens = self.vocabulary.decode(hypothesis.token_ids)
        mean_score = hypothesis.log_prob / len(hypothesis.token_ids)
        text = self.vocabulary.tokenizer.join(tokens)
        return Candidate(text, tokens, hypothesis.log_prob, mean_score, hypothesis.attention[: len(tokens)])


def _as_list(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]  # (N, H, W, 3)
    if isinstance(images, ImageInput | bytes) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def open_image(image: ImageInput, min_decode_size: int | None = None) -> Image.Image:
    """Return an image as upright RGB. Raises UserError. See `lib.vision.images.decode` for `min_decode_size`."""
    try:
        if isinstance(image, np.ndarray):
            return to_rgb(Image.fromarray(_checked(image)))
        if isinstance(image, Image.Image):
            return to_rgb(image)
        if not isinstance(image, str | Path):
            kinds = "a path, a PIL image, or a uint8 array of shape (H, W, 3) or (H, W)"
            raise UserError(f"an image has type {type(image).__name__}, but it must be {kinds}")
        with Path(image).open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageError(f"the file has more than {MAX_IMAGE_BYTES} bytes")
        return decode(data, min_decode_size)
    except (OSError, ImageError) as error:
        if isinstance(image, np.ndarray):
            raise UserError(f"an array of shape {image.shape} and type {image.dtype}: {error}") from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {image}: {reason}. Check the path, or use another image.") from error


def _checked(pixels: np.ndarray) -> np.ndarray:
    """Return `pixels` as a contiguous array. Raises ImageError if the type or shape does not show what they mean."""
    if pixels.dtype != np.uint8:
        fix = "; for values from 0 to 1 pass (255 * image).round().astype('uint8')" if pixels.dtype.kind == "f" else ""
        raise ImageError(f"the type must be uint8, with values from 0 to 255{fix}")
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise ImageError("the shape must be (H, W, 3) for RGB, or (H, W) for grey")
    return np.ascontiguousarray(pixels)
