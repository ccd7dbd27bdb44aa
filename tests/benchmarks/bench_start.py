"""Compare the time from start to caption with that of `import torchvision`. `make bench` prints the ratio."""

import os
import subprocess
import sys
from statistics import median
from timeit import timeit

import pytest
import torch
from PIL import Image

from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_captioner
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import random_init
from tests.stages.imports import ROOT

PAIRS = 5
MODELS = {"small_net": (16, 128, 128), "mobilenet_v2": (49, 1280, 512), "resnet50": (49, 2048, 512)}  # P, C, hidden


def seconds(*arguments: object) -> float:
    """Return how long Python takes with these arguments."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return timeit(lambda: subprocess.check_output([sys.executable, *arguments], env=env), number=1)


@pytest.mark.parametrize("name", MODELS)
def test_from_start_to_caption(name, tmp_path, show):
    num_regions, feature_size, hidden = MODELS[name]
    torch.manual_seed(0)
    vocabulary = Vocabulary([f"w{i}" for i in range(2_600)])
    config = DecoderConfig(num_regions, feature_size, len(vocabulary), "lstm", "scratch", "additive", hidden, hidden, 0)
    random_init(name).save(tmp_path / "cnn")
    save_captioner(tmp_path / "model", tmp_path / "cnn", tmp_path, Decoder(config), vocabulary)
    Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / "photo.jpg")
    caption = ("-m", "lib.app.caption", "--model", tmp_path / "model", tmp_path / "photo.jpg")
    imports = ("-c", "import torchvision")
    seconds(*caption), seconds(*imports)  # warm-up: reads and compiles the files
    times = [(seconds(*caption), seconds(*imports)) for _ in range(PAIRS)]
    ours, theirs = map(median, zip(*times, strict=True))
    show(
        f"from start to caption, attention on {name}: {median(a / b for a, b in times):.2f} times "
        f"`import torchvision` ({ours:.1f} s, {theirs:.1f} s; {ours - 1.5 * theirs:+.1f} s against 1.5 times)"
    )
