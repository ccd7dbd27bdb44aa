"""Seconds to decode pooled features, by greedy search, beam search and sampling. `make bench` prints them."""

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


def seconds(decode: Callable[[torch.Tensor], object], features: torch.Tensor) -> float:
    """Return how long `decode` takes for all features, in batches."""
    start = time.perf_counter()
    for part in features.split(BATCH):
        decode(part)
    return time.perf_counter() - start


@pytest.mark.parametrize("constraints", [DecodingConstraints(), DecodingConstraints(5, no_repeat_ngram_size=3)])
def test_decoding_methods_against_greedy_search(constraints, show):
    torch.manual_seed(0)
    constrain, nucleus = constraints.apply, SamplingConfig(top_p=0.9)
    # The model is untrained and ends few captions early, so decoding takes nearly all steps.
    model = Decoder(DecoderConfig(1, 1280, 2_600, "lstm", "scratch", "none", 512, 512, 0.0)).eval()
    features = torch.randn(CAPTIONS, 1, 1280)
    methods: dict[str, Callable[[torch.Tensor], object]] = {
        "greedy": lambda part: greedy(model, part, LONGEST),
        f"beam {BEAM}": lambda part: beam_search(model, part, BEAM, LONGEST, 1.0, constrain),
        "nucleus": lambda part: sample(model, part, 1, LONGEST, nucleus, torch.Generator(), constrain),
    }
    for decode in methods.values():  # warm-up
        decode(features[:BATCH])
    taken = {name: seconds(decode, features) for name, decode in methods.items()}
    results = [f"{name} {each:.1f} s ({each / taken['greedy']:.1f} times greedy)" for name, each in taken.items()]
    show(f"{CAPTIONS} captions of up to {LONGEST} words, {constraints}: {', '.join(results)}")
