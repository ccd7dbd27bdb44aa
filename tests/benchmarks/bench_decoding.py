"""Decoding's speed, for pooled photographs. `make bench` prints it; no figure decides a test."""

import time
from collections.abc import Callable

import pytest
import torch

from lib.finetuning.sampling import SamplingConfig, sample
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.decoding import greedy
from lib.search.beam import beam_search
from lib.search.constraints import DecodingConstraints

CAPTIONS, BATCH, BEAM, LONGEST = 1_000, 100, 5, 20
RULES = DecodingConstraints(min_length=5, no_repeat_ngram_size=3)


def seconds(write: Callable[[torch.Tensor], object], features: torch.Tensor) -> float:
    start = time.perf_counter()
    for part in features.split(BATCH):
        write(part)
    return time.perf_counter() - start


@pytest.mark.parametrize("rules", [DecodingConstraints(), RULES])
def test_captions_of_photographs(rules, capsys):
    torch.manual_seed(0)
    constrain, nucleus = rules.apply, SamplingConfig(top_p=0.9)
    model = Decoder(DecoderConfig(1, 1280, 2_600, "lstm", "scratch", "none", 512, 512, 0.0)).eval()
    features = torch.randn(CAPTIONS, 1, 1280)
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "greedy": lambda part: greedy(model, part, LONGEST),
        f"beam {BEAM}": lambda part: beam_search(model, part, BEAM, LONGEST, 1.0, constrain),
        "nucleus": lambda part: sample(model, part, 1, LONGEST, nucleus, torch.Generator(), constrain),
    }
    for write in ways.values():  # warms up
        write(features[:BATCH])
    took = {name: seconds(write, features) for name, write in ways.items()}
    told = ", ".join(f"{name} {each:.1f} s ({each / took['greedy']:.1f} times greedy)" for name, each in took.items())
    with capsys.disabled():
        # Untrained, it ends few captions before their time: nearly all of the steps are taken.
        print(f"\n{CAPTIONS} captions of up to {LONGEST} words, pooled features, {rules}: {told}", end="")
