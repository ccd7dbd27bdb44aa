"""Write a complete model folder with random weights, as the finetune stage does."""

from pathlib import Path

import torch

from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_captioner
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import random_init

WORDS = ["a", "dog", "cat", "runs", "sleeps"]


def write_model(folder: Path, attention: str = "additive", scale: float = 3) -> Path:
    """Write a model and return its folder. It uses a grid of 4 x 4 features, or a pooled vector without attention.

    A different `scale` of the weights gives a different decoder for the same CNN.
    """
    torch.manual_seed(0)
    vocabulary = Vocabulary(WORDS)
    num_regions, feature_size = (16, 128) if attention == "additive" else (1, 2048)
    config = DecoderConfig(num_regions, feature_size, len(vocabulary), "lstm", "scratch", attention, 8, 8, 0.0)
    decoder = Decoder(config)
    for parameter in decoder.parameters():  # larger weights, so that the predictions depend on the image
        parameter.data.mul_(scale)
    random_init("small_net").save(folder.with_suffix(".cnn"))
    save_captioner(folder, folder.with_suffix(".cnn"), folder, decoder.eval(), vocabulary)
    return folder
