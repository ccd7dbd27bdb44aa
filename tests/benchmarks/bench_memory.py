"""Memory as the data grows: what a process holds of its own (RssAnon), beside the files that are mapped into it."""

import multiprocessing
import threading
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's /proc")


def anonymous() -> float:
    """MB."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def growth(work: Callable[..., None], *arguments: object) -> float:
    """The most by which anonymous memory grew, in MB, while a fresh process did the work."""
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
    """Grid features of `shards` shards of 256 images."""
    from lib.extraction import extract as extraction
    from lib.vision.backbones import random_init

    if prepare:
        torch.set_num_threads(1)
        return
    extraction.SHARD_SIZE = 256
    buffer = BytesIO()
    Image.effect_noise((96, 96), 50).convert("RGB").save(buffer, "JPEG")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.jpg", buffer.getvalue())
    backbone = random_init("resnet18")
    backbone.preprocess = backbone.preprocess.__class__(96, (0.5,) * 3, (0.5,) * 3)
    images = pd.DataFrame({"image_id": range(256 * shards), "archive": "a.zip", "member": "a.jpg"})
    config = extraction.ExtractionConfig(folder, backbone, "grid", "float32", 32)
    extraction.extract(images, config, folder / f"{shards}", 2)


def training(folder: Path, shards: int, prepare: bool) -> None:
    """An epoch on grid features of `shards` shards of 100 MB, of 256 images with one caption each."""
    from lib.features.store import Features, shard_path
    from lib.model.decoder import Decoder, DecoderConfig
    from lib.text.vocabulary import Vocabulary
    from lib.training.batches import caption_set
    from lib.training.cross_entropy import CrossEntropy, CrossEntropyConfig
    from lib.training.data import Split
    from lib.training.loop import train_decoder

    per_shard, places, channels = 256, 49, 4096
    if prepare:
        for number in range(shards):
            np.lib.format.open_memmap(shard_path(folder, number), "w+", np.float16, (per_shard, places, channels))
        return
    index = pd.DataFrame({"shard": np.repeat(range(shards), per_shard), "row": list(range(per_shard)) * shards})
    captions = [[["a", "picture"]]] * len(index)
    vocabulary = Vocabulary(["a", "picture"])
    decoder = Decoder(DecoderConfig(places, channels, len(vocabulary), "lstm", "scratch", "additive", 32, 32, 0.0))
    train = Split(Features(folder, index), dict(enumerate(captions)), caption_set(captions, vocabulary, 20))
    few = Split(Features(folder, index[:8]), dict(enumerate(captions[:8])), caption_set(captions[:8], vocabulary, 20))
    recipe = CrossEntropyConfig(epochs=1, batch_size=32, learning_rate=0.001, monitor="val_loss", seed=1)
    train_decoder(CrossEntropy(decoder, vocabulary, train, few, recipe, 20))


@pytest.mark.parametrize("work", [extracting, training])
def test_memory_stays_flat_as_the_data_grows(work, tmp_path, capsys):
    few, many = 2, 12
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    small, large = growth(work, tmp_path / "few", few), growth(work, tmp_path / "many", many)
    with capsys.disabled():
        print(
            f"\n{work.__name__}: anonymous memory for {many} shards over that for {few}: {large / small:.2f} "
            f"({small:.0f} and {large:.0f} MB)"
        )
    assert large < 1.5 * small
