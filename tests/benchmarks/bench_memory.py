"""Check that peak memory does not grow with the data. It is anonymous memory (RssAnon), without mapped files."""

import multiprocessing
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.extraction import extract as extraction
from lib.features.store import Features, shard_path
from lib.model.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from lib.training.data import Split
from lib.training.loop import train_decoder
from lib.vision.backbones import random_init
from lib.vision.images import Preprocess
from tests.pictures import saved

STATUS = Path("/proc/self/status")
SHARD_SIZE = 256  # images
FEW, MANY = 2, 12  # shards
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")


def anonymous() -> float:
    """Return the anonymous memory of this process in MB."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def growth(work: Callable[..., None], *arguments: object) -> float:
    """Return the largest growth of anonymous memory, in MB, while a new process does the work.

    The process calls `work` with prepare=True first, and measures the call with prepare=False.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (work, arguments))


def _growth(work: Callable[..., None], arguments: tuple) -> float:
    work(*arguments, prepare=True)
    before, most, done = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(*arguments, prepare=False)
    done.set()
    watcher.join()
    return most


def extracting(folder: Path, shards: int, prepare: bool) -> None:
    """Extract the grid features of `shards` shards."""
    if prepare:
        torch.set_num_threads(1)
        return
    extraction.SHARD_SIZE = SHARD_SIZE
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.jpg", saved(Image.effect_noise((96, 96), 50).convert("RGB"), "JPEG"))
    backbone = random_init("resnet18")
    backbone.preprocess = Preprocess(96, (0.5,) * 3, (0.5,) * 3)
    images = pd.DataFrame({"image_id": range(SHARD_SIZE * shards), "archive": "a.zip", "member": "a.jpg"})
    config = extraction.ExtractionConfig(folder, backbone, "grid", "float32", 32)
    extraction.extract(images, config, folder / "scratch", 2)


def training(folder: Path, shards: int, prepare: bool) -> None:
    """Train for an epoch on grid features in `shards` shards of 100 MB, with one caption per image."""
    num_regions, feature_size = 49, 4096
    if prepare:
        for number in range(shards):
            shape = (SHARD_SIZE, num_regions, feature_size)
            np.lib.format.open_memmap(shard_path(folder, number), "w+", np.float16, shape)
        return
    index = pd.DataFrame({"shard": np.repeat(range(shards), SHARD_SIZE), "row": [*range(SHARD_SIZE)] * shards})
    vocabulary = Vocabulary(["a", "picture"])
    decoder = Decoder(DecoderConfig(num_regions, feature_size, 6, "lstm", "scratch", "additive", 32, 32, 0.0))
    splits = []
    for rows in (index, index[:8]):
        captions = [[["a", "picture"]]] * len(rows)
        splits.append(Split(Features(folder, rows), dict(enumerate(captions)), caption_set(captions, vocabulary, 20)))
    config = CrossEntropyConfig(epochs=1, batch_size=32, learning_rate=0.001, monitor="val_loss", seed=1)
    train_decoder(CrossEntropy(decoder, vocabulary, *splits, config, 20))


@pytest.mark.parametrize("work", [extracting, training])
def test_memory_stays_flat_as_the_data_grows(work, tmp_path_factory, show):
    small, large = (growth(work, tmp_path_factory.mktemp("shards"), shards) for shards in (FEW, MANY))
    show(
        f"{work.__name__}: anonymous memory for {MANY} shards: {large / small:.2f} times that for {FEW} shards "
        f"({large:.0f} and {small:.0f} MB)"
    )
    assert large < 1.5 * small
