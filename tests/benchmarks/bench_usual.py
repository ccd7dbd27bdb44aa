"""Compare the speed with usual tutorial code, on the same images and captions. `make bench` prints the ratios.

The usual code reads an image file per caption and runs the CNN in the training loop, packs captions of different
lengths for nn.LSTM, and runs beam search on one image at a time. No test fails because of a time. (bench_scoring.py
compares with pycocoevalcap.)
"""

import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lib.core.workers import worker_count
from lib.extraction.extract import ExtractionConfig, extract
from lib.features.store import Features
from lib.model.decoder import Decoder, DecoderConfig
from lib.optim.optimiser import Optimiser
from lib.scenes.dataset import IMAGES, load_scenes, write_scenes
from lib.scenes.world import KINDS
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.text.tokenizer import tokenize
from lib.text.vocabulary import PAD, Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import batch_loss
from lib.training.data import Split
from lib.vision.backbones import Backbone, for_inference, random_init
from tests.benchmarks.bench_decoding import BEAM, LONGEST, seconds
from tests.benchmarks.bench_training import BATCH, SIZE, VOCABULARY
from tests.benchmarks.timing import paired
from tests.lib.models import caption_batch

CNN, NUM_IMAGES, PIXELS = "resnet50", 200, 480  # PIXELS per side, about as in COCO's photographs
EPOCHS = 10  # after one extraction of features
USUAL_CAPTIONS = 128  # number of captions in the timing of the usual code


class PackedLSTM(nn.LSTM):
    """An nn.LSTM over packed captions, as a decoder's cell."""

    lengths: Tensor  # (N,), set before each batch

    def forward(self, x, state):
        h, last = super().forward(pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False), state)
        return pad_packed_sequence(h, batch_first=True)[0], last


class CaptionedFiles(Dataset):
    """Captions with their images, which are read from files and preprocessed by torchvision."""

    def __init__(self, files: list[Path], captions: list[list[int]], backbone: Backbone):
        preprocess = backbone.preprocess
        self.files, self.captions = files, captions
        steps = [transforms.Resize(preprocess.resize), transforms.CenterCrop(preprocess.size)]
        steps += [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
        self.pixels = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, number: int) -> tuple[Tensor, list[int]]:
        with Image.open(self.files[number]) as image:
            return self.pixels(image.convert("RGB")), self.captions[number]


def collate(items: list[tuple[Tensor, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels (N, 3, size, size), captions (N, T) and their lengths (N,)."""
    pixels, captions = zip(*items, strict=True)
    padded = pad_sequence([torch.tensor(caption) for caption in captions], True, PAD)
    return torch.stack(pixels), padded, torch.tensor([len(caption) for caption in captions])


@dataclass
class Data:
    """Images of `scenes`, as files and as features, and their captions."""

    files: list[Path]  # the image file of each caption
    split: Split
    backbone: Backbone
    extraction: float  # seconds to extract the features


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    raw, workers = folder / "raw", worker_count()
    counts = {"train": NUM_IMAGES, "val": 1, "test": 1}
    write_scenes(raw, counts, seed=1, size=PIXELS, mix=dict.fromkeys(KINDS, 1.0), workers=workers)
    with zipfile.ZipFile(raw / IMAGES) as archive:
        archive.extractall(folder)
    scenes = load_scenes(raw)
    images = scenes.images[scenes.images["split"] == "train"]
    captions_of = scenes.captions.groupby("image_id")["caption"]
    references = {image: [tokenize(text) for text in captions_of.get_group(image)] for image in images["image_id"]}
    words = sorted({word for captions in references.values() for caption in captions for word in caption})
    # `scenes` has few words. Unused words make the vocabulary as large as that of photographs.
    vocabulary = Vocabulary([*words, *(f"w{i}" for i in range(VOCABULARY - 4 - len(words)))])

    torch.manual_seed(0)
    backbone = random_init(CNN)
    for_inference(backbone.network)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CAPTION_DEVICE", "cpu")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        start = time.perf_counter()
        result = extract(images, ExtractionConfig(raw, backbone, "pooled", "float32", 32), folder / "scratch", workers)
        extraction = time.perf_counter() - start
    captions = caption_set(references.values(), vocabulary, LONGEST)
    files = [folder / member for member in images["member"].iloc[captions.image_index.tolist()]]
    return Data(files, Split(Features(result.folder, result.index)[:], references, captions), backbone, extraction)


def decoder_of(split: Split, packed: bool = False) -> Decoder:
    """Return an untrained decoder with fixed weights; its cell is ours, or nn.LSTM over packed captions."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(*split.features.shape[1:], VOCABULARY, "lstm", "scratch", "none", SIZE, SIZE, 0.0))
    decoder.fit_standardisation([split.features])
    if packed:
        weights, decoder.body.cell = decoder.body.cell.state_dict(), PackedLSTM(SIZE, SIZE, batch_first=True)
        decoder.body.cell.load_state_dict(weights)
    return decoder.train()


def train(decoder: Decoder, split: Split, epochs: int) -> float:
    """Train as the train stage does; return the seconds per epoch."""
    rng = np.random.default_rng(0)
    optimiser = Optimiser(decoder.parameters(), 0.001, epochs * len(split.captions.batches(BATCH)), 0.01)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in split.captions.batches(BATCH, rng):
            optimiser.step(batch_loss(decoder, split, batch)[0])
    return (time.perf_counter() - start) / epochs


def train_as_usual(decoder: Decoder, data: Data, size: int) -> float:
    """Train on batches of `size` captions with the CNN in the loop; return captions per second."""
    captions = data.split.captions
    ids = [row[:length].tolist() for row, length in zip(captions.token_ids, captions.lengths, strict=True)]
    files = CaptionedFiles(data.files, ids, data.backbone)
    loader = DataLoader(files, size, shuffle=True, num_workers=worker_count(), collate_fn=collate)
    steps = USUAL_CAPTIONS // size
    optimiser = Optimiser(decoder.parameters(), 0.001, 1 + steps, 0.01)
    start = time.perf_counter()
    for step, (pixels, batch, lengths) in enumerate(islice(loader, 1 + steps)):
        if step == 1:  # the first step waits for the loader's processes to start
            start = time.perf_counter()
        with torch.inference_mode():
            features = data.backbone.network(pixels.to(memory_format=torch.channels_last))[:, None]
        decoder.body.cell.lengths = lengths - 1
        references = caption_batch(torch.arange(len(batch)), batch)
        optimiser.step(nn.functional.cross_entropy(decoder(features.clone(), references), references.words))
    return steps * size / (time.perf_counter() - start)


@pytest.mark.parametrize("size", [1, 32])
def test_captions_per_second_against_the_cnn_in_the_training_loop(data, size, capsys):
    usual = train_as_usual(decoder_of(data.split, packed=True), data, size)
    epoch, captions = train(decoder_of(data.split), data.split, EPOCHS), len(data.split.captions)
    training, total = captions / epoch, EPOCHS * captions / (data.extraction + EPOCHS * epoch)
    with capsys.disabled():
        print(
            f"\ntraining on features of {CNN}: {training:.0f} captions per second; usual code with batch size {size}: "
            f"{usual:.1f}, a ratio of {training / usual:.0f}; {EPOCHS} epochs including extraction: {total:.0f}, a "
            f"ratio of {total / usual:.1f}",
            end="",
        )


def test_training_step_against_packed_sequences(data, capsys):
    captions = data.split.captions
    batch = captions.batches(BATCH, np.random.default_rng(0))[0]
    ours, theirs = decoder_of(data.split), decoder_of(data.split, packed=True)
    theirs.body.cell.lengths = torch.from_numpy(captions.lengths[batch] - 1)
    losses = [
        batch_loss(decoder, data.split, batch, bucket_by_length=decoder is ours)[0].item() for decoder in (ours, theirs)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # both compute the same loss

    def step(decoder: Decoder) -> Callable[[], None]:
        optimiser = Optimiser(decoder.parameters(), 0.001, 100, 0.01)
        return lambda: optimiser.step(batch_loss(decoder, data.split, batch, bucket_by_length=decoder is ours)[0])

    ratio, median = paired(step(ours), step(theirs))
    lengths = captions.lengths[batch] - 1
    with capsys.disabled():
        print(
            f"\na training step, {len(batch)} captions of {lengths.min()} to {lengths.max()} words: "
            f"{1e3 * median:.0f} ms, {ratio:.2f} times that of nn.LSTM over packed sequences",
            end="",
        )


def test_beam_search_against_one_image_at_a_time(data, capsys):
    model, features = decoder_of(data.split), data.split.features
    train(model, data.split, EPOCHS)  # so that the model ends its captions
    model.eval()

    def search(part: Tensor) -> list[int]:
        return [
            len(captions[0].token_ids)
            for captions in beam_search(model, part, BEAM, LONGEST, 1.0, DecodingConstraints().apply)
        ]

    lengths = search(features[:1]) + search(features)  # warm-up
    ours = seconds(search, features)
    theirs = seconds(lambda part: [search(image) for image in part.split(1)], features)
    with capsys.disabled():
        print(
            f"\nbeam search, {BEAM} beams, captions of {np.mean(lengths):.0f} words: "
            f"{1e3 * ours / len(features):.1f} ms per image, {ours / theirs:.2f} times that of one image at a time",
            end="",
        )
