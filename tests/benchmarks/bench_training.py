"""Compare the time of a training step with that of its matrix products. `make bench` prints the ratio.

No test fails because of a time.
"""

import time
from collections.abc import Sequence
from itertools import cycle
from statistics import median

import numpy as np
import pytest
import torch

from lib.finetuning.reward import CiderReward
from lib.finetuning.self_critical import SelfCritical, SelfCriticalConfig
from lib.model.decoder import CaptionBatch, Decoder, DecoderConfig
from lib.optim.optimiser import Optimiser
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.cross_entropy import batch_loss
from lib.training.data import Split
from tests.benchmarks.timing import fastest_product, paired

IMAGES, CAPTIONS_PER_IMAGE, VOCABULARY = 400, 5, 2500  # as in Flickr8k
SHORTEST, LONGEST = 5, 17  # words per caption; 11 on average
FEATURE_SIZE, SIZE, BATCH = 1280, 512, 128
STEPS = 40


def product_shapes(attention: str, regions: int, parts: Sequence[CaptionBatch], images: int) -> list[tuple[int, ...]]:
    """Return the shape (rows, inputs, outputs) of each matrix product in the forward pass of a step."""
    words = sum(len(part.words) for part in parts)
    shapes = [(images, FEATURE_SIZE, SIZE), (images, FEATURE_SIZE, 2 * SIZE), (words, SIZE, VOCABULARY)]
    attends = attention == "additive"
    shapes += [(images * regions, FEATURE_SIZE, SIZE)] * 2 * attends
    for part in parts:
        captions, steps = part.token_ids[:, :-1].shape
        shapes += [(captions * steps, SIZE, 4 * SIZE)] + [(captions, SIZE, 4 * SIZE)] * steps * (1 + attends)
        shapes += [(captions * steps, SIZE, SIZE), (captions * steps, 2 * SIZE, 4 * SIZE)] * attends
        # Attention scores and contexts, for each caption.
        shapes += [(steps * regions, SIZE, 1), (steps, regions, SIZE)] * captions * attends
    return shapes


def build(attention: str, regions: int) -> tuple[Decoder, Vocabulary, Split]:
    """Return a decoder, its vocabulary and random captions to train on."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary([f"w{i}" for i in range(VOCABULARY - 4)])
    lengths = rng.integers(SHORTEST, LONGEST, endpoint=True, size=(IMAGES, CAPTIONS_PER_IMAGE))
    references = [[[f"w{i}" for i in rng.integers(VOCABULARY - 4, size=n)] for n in row] for row in lengths]
    captions = caption_set(references, vocabulary, 20)
    split = Split(torch.randn(IMAGES, regions, FEATURE_SIZE).half(), dict(enumerate(references)), captions)
    config = DecoderConfig(regions, FEATURE_SIZE, VOCABULARY, "lstm", "scratch", attention, SIZE, SIZE, 0.3)
    return Decoder(config).train(), vocabulary, split


@pytest.mark.parametrize(("attention", "regions"), [("none", 1), ("additive", 49)])
def test_training_step_against_its_product_shapes(attention, regions, capsys):
    decoder, _, split = build(attention, regions)
    captions = split.captions
    optimiser = Optimiser(decoder.parameters(), 0.001, STEPS, 0.01)
    plan = captions.batches(BATCH, np.random.default_rng(0), by_image=decoder.attends)
    batch, batches = captions.take(plan[0]), cycle(plan)

    def step():
        loss, _ = batch_loss(decoder, split, next(batches), label_smoothing=0.1)
        optimiser.step(loss)

    shapes = product_shapes(attention, regions, batch.parts, len(batch.images))
    products = {shape: fastest_product(*shape) for shape in set(shapes)}
    # For each product, the backward pass has two of the same size: for the inputs and for the weights.
    ratio, seconds = paired(step, lambda: [products[shape]() for shape in shapes * 3])
    with capsys.disabled():
        print(
            f"\na training step, attention {attention}, {BATCH} captions: {1e3 * seconds:.0f} ms; "
            f"its matrix products alone, each by the fastest routine, take {1 / ratio:.0%} of that",
            end="",
        )


def test_self_critical_step_and_the_share_of_its_rewards(capsys):
    decoder, vocabulary, split = build("none", 1)
    reward_times = []

    class Timed(CiderReward):
        def __call__(self, images, captions):
            start = time.perf_counter()
            rewards = super().__call__(images, captions)
            reward_times.append(time.perf_counter() - start)
            return rewards

    config = SelfCriticalConfig(
        epochs=1, batch_size=64, samples=5, baseline="mean", learning_rate=1e-4, monitor="val_cider_d", seed=1
    )  # fmt: skip
    objective = SelfCritical(decoder, vocabulary, split, split, config, 20)
    vars(objective)["reward"] = Timed(list(split.references.values()), vocabulary)
    optimiser = Optimiser(decoder.parameters(), 1e-4, STEPS, 0.0)
    times = []
    for step in range(STEPS // 2):
        batches = objective.batches(step)
        start = time.perf_counter()
        optimiser.step(objective.loss(batches[0])[0])
        times.append(time.perf_counter() - start)
    with capsys.disabled():
        print(
            f"\na self-critical step, 64 images, 5 samples each: {1e3 * median(times[2:]):.0f} ms, "
            f"{median(reward_times[2:]) / median(times[2:]):.0%} of it for the rewards",
            end="",
        )
