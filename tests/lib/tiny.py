"""A whole captioner, as the train stage writes it: too small and too untrained to say anything of sense."""

from pathlib import Path

import torch

from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_captioner
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import random_init

WORDS = ["a", "dog", "cat", "runs", "sleeps"]


def write_model(folder: Path, attention: str = "additive", scale: float = 3) -> Path:
    """Its folder. With attention it looks at a grid of 4 x 4 places, without at a pooled vector.

    Another `scale` of its weights is another decoder for the same CNN.
    """
    torch.manual_seed(0)
    vocabulary = Vocabulary(WORDS)
    places, channels = (16, 128) if attention == "additive" else (1, 2048)
    decoder = Decoder(DecoderConfig(places, channels, len(vocabulary), "lstm", "scratch", attention, 8, 8, 0.0))
    for parameter in decoder.parameters():  # far from uniform predictions, and not the same for every picture
        parameter.data.mul_(scale)
    random_init("small_net").save(folder.with_suffix(".cnn"))
    save_captioner(folder, folder.with_suffix(".cnn"), folder, decoder.eval(), vocabulary)
    return folder
