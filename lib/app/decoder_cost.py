"""What a decoder costs: its number of parameters, the time of a training epoch, and captions per second."""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from lib.model.decoder import Decoder, DecoderConfig
from lib.optim.optimiser import Optimiser
from lib.runtime.device import device
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import batch_loss
from lib.training.data import Split

_HIDDEN_SIZES = range(8, 8193, 8)
_ROUNDS = 5  # each measures every decoder once, so that all of them see the same load of the machine
_STEPS = 10  # training steps per round
_IMAGES = 100  # images that are captioned per round


def num_parameters(config: DecoderConfig) -> int:
    """Return the number of trained parameters of a decoder."""
    with torch.device("meta"):  # allocates no memory
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


def equal_size(config: DecoderConfig, cell: str) -> DecoderConfig:
    """Return `config` with another cell, and the hidden size that keeps the number of parameters about the same."""

    def of_size(index: int) -> DecoderConfig:
        return replace(config, cell=cell, hidden_size=_HIDDEN_SIZES[index])

    def difference(candidate: DecoderConfig) -> int:
        return abs(num_parameters(candidate) - target)

    target = num_parameters(config)
    index = bisect_left(range(len(_HIDDEN_SIZES)), target, key=lambda i: num_parameters(of_size(i)))
    return min((of_size(i) for i in (index - 1, index) if 0 <= i < len(_HIDDEN_SIZES)), key=difference)


@dataclass(frozen=True)
class Speed:
    """Captions per second on `device()`."""

    training: float  # without validation
    decoding: float  # beam search, without the CNN


def measure_speeds(
    decoders: Mapping[str, Decoder],
    vocabulary: Vocabulary,
    captions: Sequence[Sequence[Sequence[str]]],
    batch_size: int,
    beam_size: int,
) -> dict[str, Speed]:
    """Measure trained decoders, on random features with the mean and variance of the features in training.

    captions[i] are the token lists of image i of the train split; some images are enough. Each speed is the median of
    several rounds.
    """
    splits = {name: _split(decoder.to(device()), vocabulary, captions) for name, decoder in decoders.items()}
    rounds: dict[str, list[Speed]] = {name: [] for name in decoders}
    for _ in range(1 + _ROUNDS):
        for name, decoder in decoders.items():
            split = splits[name]
            speed = Speed(_train(decoder, split, batch_size), _decode(decoder, split.features[:_IMAGES], beam_size))
            rounds[name].append(speed)
    measured = {name: speeds[1:] for name, speeds in rounds.items()}  # the first round warms up
    return {
        name: Speed(median(speed.training for speed in speeds), median(speed.decoding for speed in speeds))
        for name, speeds in measured.items()
    }


def _split(decoder: Decoder, vocabulary: Vocabulary, captions: Sequence[Sequence[Sequence[str]]]) -> Split:
    config = decoder.config
    random = torch.randn(len(captions), config.num_regions, config.feature_size, generator=torch.Generator())
    features = random.to(device()) / decoder.feature_scale + decoder.feature_mean
    return Split(features, {}, caption_set(captions, vocabulary, config.max_length)).to(device())


def _train(decoder: Decoder, split: Split, batch_size: int) -> float:
    """Take some training steps with learning rate 0. Return the number of captions per second."""
    batches = split.captions.batches(batch_size, np.random.default_rng(0))[:_STEPS]
    optimiser = Optimiser(decoder.train().parameters(), 0.0, len(batches), 0.0)
    start = _now()
    for batch in batches:
        optimiser.step(batch_loss(decoder, split, batch)[0])
    return sum(map(len, batches)) / (_now() - start)


def _decode(decoder: Decoder, features: Tensor, beam_size: int) -> float:
    """Caption some images. Return the number of captions per second."""
    max_length, constrain, start = decoder.config.max_length, DecodingConstraints().apply, _now()
    beam_search(decoder.eval(), features, beam_size, max_length, 1.0, constrain)
    return len(features) / (_now() - start)


def _now() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
