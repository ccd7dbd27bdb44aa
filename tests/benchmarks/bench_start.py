"""From the command to a caption, against a bare `import torchvision`. `make bench` prints it; no figure decides."""

import os
import statistics
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_captioner
from lib.text.vocabulary import Vocabulary
from lib.vision.backbones import random_init
from tests.stages.imports import ROOT

PAIRS = 5
MODELS = {  # backbone: P, C, hidden
    "small_net": (16, 128, 128),
    "mobilenet_v2": (49, 1280, 512),
    "resnet50": (49, 2048, 512),
}


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


@pytest.mark.parametrize("name", MODELS)
def test_from_start_to_caption(name, tmp_path, capsys):
    places, channels, hidden = MODELS[name]
    torch.manual_seed(0)
    vocabulary = Vocabulary([f"w{i}" for i in range(2_600)])
    config = DecoderConfig(places, channels, len(vocabulary), "lstm", "scratch", "additive", hidden, hidden, 0.0)
    random_init(name).save(tmp_path / "cnn")
    save_captioner(tmp_path / "model", tmp_path / "cnn", tmp_path, Decoder(config), vocabulary)
    Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / "photo.jpg")
    caption = ("-m", "lib.app.caption", "--model", f"{tmp_path / 'model'}", f"{tmp_path / 'photo.jpg'}")
    bare = ("-c", "import torchvision")
    seconds(*caption), seconds(*bare)  # from here on the files are in memory, and compiled
    times = [(seconds(*caption), seconds(*bare)) for _ in range(PAIRS)]
    ratio = statistics.median(ours / theirs for ours, theirs in times)
    ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
    with capsys.disabled():
        print(
            f"\nfrom start to caption, attention on {name}: {ratio:.2f} times `import torchvision` "
            f"({ours:.1f} s, {theirs:.1f} s; {ours - 1.5 * theirs:+.1f} s beyond 1.5 times)",
            end="",
        )
