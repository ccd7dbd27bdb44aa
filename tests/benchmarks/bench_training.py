"""What a training step costs beside its matrix products. `make bench` prints it; no time decides a test."""

import time
from statistics import median

import numpy as np
import pytest
import torch

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from lib.training import decoder as training
from lib.training.batches import caption_set, targets
from lib.training.optimisation import Optimiser
from tests.benchmarks.timing import product_rate

IMAGES, EACH, WORDS, VOCABULARY = 400, 5, 11, 2500  # as Flickr8k has them
CHANNELS, SIZE, BATCH = 1280, 512, 128
STEPS = 40


def products(attention: str, places: int, captions: int, images: int, words: int) -> list[tuple[int, int, int]]:
    """The forward products of a step, each (rows, inputs, outputs)."""
    steps = captions * (WORDS + 1)
    made = [(images, CHANNELS, SIZE), (images, CHANNELS, 2 * SIZE), (steps, SIZE, 4 * SIZE)]
    made += [(captions, SIZE, 4 * SIZE)] * (WORDS + 1) + [(words, SIZE, VOCABULARY)]
    if attention == "additive":
        made += [(images * places, CHANNELS, SIZE)] * 2 + [(steps, SIZE, SIZE), (steps, 2 * SIZE, 4 * SIZE)]
        made += [(captions, SIZE, 4 * SIZE)] * (WORDS + 1)
    return made


@pytest.mark.parametrize(("attention", "places"), [("none", 1), ("additive", 49)])
def test_a_training_step_against_its_matrix_products(attention, places, capsys):
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary([f"w{i}" for i in range(VOCABULARY - 4)])
    references = [
        [[f"w{i}" for i in rng.integers(VOCABULARY - 4, size=WORDS)] for _ in range(EACH)] for _ in range(IMAGES)
    ]
    captions = caption_set(references, vocabulary, 20)
    split = training.Split(torch.randn(IMAGES, places, CHANNELS).half(), dict(enumerate(references)), captions)
    decoder = Decoder(
        DecoderConfig(places, CHANNELS, VOCABULARY, "lstm", "scratch", attention, SIZE, SIZE, 0.3)
    ).train()
    optimiser = Optimiser(decoder.parameters(), 0.001, STEPS, 0.01)
    plan = captions.batches(BATCH, rng, by_image=decoder.attends)
    times = []
    for step in range(STEPS):
        start = time.perf_counter()
        loss, _ = training._loss(decoder, split, plan[step % len(plan)], label_smoothing=0.1)
        optimiser.step(loss)
        times.append(time.perf_counter() - start)
    rows, ids = captions.take(plan[0])
    made = products(attention, places, len(rows), len(rows.unique()), len(targets(ids)))
    rates = {shape: product_rate(*shape) for shape in set(made)}
    # Backward there are two more of the same size, for the inputs and for the weights.
    alone = sum(3 * 2 * m * k * n / rates[m, k, n] for m, k, n in made)
    seconds = median(times[5:])
    with capsys.disabled():
        print(
            f"\na training step, attention {attention}, {len(rows)} captions: {1e3 * seconds:.0f} ms, of which its "
            f"matrix products would take {alone / seconds:.0%} if each ran alone at the machine's rate for its shape",
            end="",
        )
