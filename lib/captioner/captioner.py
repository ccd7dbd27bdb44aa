"""From a picture to a sentence."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib.captioner.beam import beam_search
from lib.captioner.decoder import Decoder
from lib.captioner.model import backbone_folder, load_decoder
from lib.captioner.rules import NO_RULES, Rules
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import Backbone
from lib.vision.projection import Projection, projection_path


@dataclass
class Captioner:
    """A CNN, the decoder that was trained on its features, and the words it knows."""

    backbone: Backbone
    projection: Projection | None
    decoder: Decoder
    vocabulary: Vocabulary

    @classmethod
    def load(cls, folder: Path) -> "Captioner":
        """Reads what the train stage wrote."""
        projection = Projection.load(folder) if projection_path(folder).exists() else None
        return cls(Backbone.load(backbone_folder(folder)).fused(), projection, *load_decoder(folder))

    @torch.inference_mode()
    def caption(
        self,
        image: Image.Image,
        *,
        beam_size: int,
        max_length: int,
        length_penalty: float,
        rules: Rules = NO_RULES,
    ) -> str:
        """A caption for one RGB picture."""
        pixels = torch.from_numpy(self.backbone.preprocess.pixels(image).copy())[None]
        kind = "pooled" if self.decoder.config.places == 1 else "grid"
        # The decoder was trained on features that were kept as float16, before and after projection: round alike.
        features = self.backbone.features(pixels, kind).half()
        if self.projection:
            features = self.projection(features).half()
        ((best, *_),) = beam_search(self.decoder, features, beam_size, max_length, length_penalty, rules)
        return " ".join(self.vocabulary.decode(best.ids))
