"""What a training step costs beside its matrix products. `make bench` prints it; no time decides a test."""

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

IMAGES, EACH, VOCABULARY = 400, 5, 2500  # as Flickr8k has them
SHORTEST, LONGEST = 5, 17  # words of a caption, 11 in the mean
CHANNELS, SIZE, BATCH = 1280, 512, 128
STEPS = 40


def products(attention: str, places: int, parts: Sequence[CaptionBatch], images: int) -> list[tuple[int, int, int]]:
    """The forward products of a step, each (rows, inputs, outputs), on a batch in parts."""
    words = sum(len(part.words) for part in parts)
    made = [(images, CHANNELS, SIZE), (images, CHANNELS, 2 * SIZE), (words, SIZE, VOCABULARY)]
    attends = attention == "additive"
    made += [(images * places, CHANNELS, SIZE)] * 2 * attends
    for part in parts:
        captions, read = part.token_ids[:, :-1].shape
        made += [(captions * read, SIZE, 4 * SIZE)] + [(captions, SIZE, 4 * SIZE)] * read * (1 + attends)
        made += [(captions * read, SIZE, SIZE), (captions * read, 2 * SIZE, 4 * SIZE)] * attends
        # The scores of each caption, and its contexts.
        made += [(read * places, SIZE, 1), (read, places, SIZE)] * captions * attends
    return made


def learner(attention: str, places: int) -> tuple[Decoder, Vocabulary, Split]:
    """A decoder and random captions to teach it."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary([f"w{i}" for i in range(VOCABULARY - 4)])
    lengths = rng.integers(SHORTEST, LONGEST, endpoint=True, size=(IMAGES, EACH))
    references = [[[f"w{i}" for i in rng.integers(VOCABULARY - 4, size=n)] for n in each] for each in lengths]
    captions = caption_set(references, vocabulary, 20)
    split = Split(torch.randn(IMAGES, places, CHANNELS).half(), dict(enumerate(references)), captions)
    config = DecoderConfig(places, CHANNELS, VOCABULARY, "lstm", "scratch", attention, SIZE, SIZE, 0.3)
    return Decoder(config).train(), vocabulary, split


@pytest.mark.parametrize(("attention", "places"), [("none", 1), ("additive", 49)])
def test_a_training_step_against_its_matrix_products(attention, places, capsys):
    decoder, _, split = learner(attention, places)
    captions = split.captions
    optimiser = Optimiser(decoder.parameters(), 0.001, STEPS, 0.01)
    plan = captions.batches(BATCH, np.random.default_rng(0), by_image=decoder.attends)
    taken, steps = captions.take(plan[0]), cycle(plan)

    def step():
        loss, _ = batch_loss(decoder, split, next(steps), label_smoothing=0.1)
        optimiser.step(loss)

    made = products(attention, places, taken.parts, len(taken.images))
    alone = {shape: fastest_product(*shape) for shape in set(made)}
    # Backward there are two more of the same size, for the inputs and for the weights.
    ratio, seconds = paired(step, lambda: [alone[shape]() for shape in made * 3])
    with capsys.disabled():
        print(
            f"\na training step, attention {attention}, {BATCH} captions: {1e3 * seconds:.0f} ms, of which its "
            f"matrix products would take {1 / ratio:.0%} if each ran alone, as fast as the machine can do it",
            end="",
        )


def test_a_self_critical_step_and_the_share_of_its_rewards(capsys):
    decoder, vocabulary, split = learner("none", 1)
    spent = []

    class Timed(CiderReward):
        def __call__(self, images, captions):
            start = time.perf_counter()
            rewards = super().__call__(images, captions)
            spent.append(time.perf_counter() - start)
            return rewards

    recipe = SelfCriticalConfig(
        epochs=1, batch_size=64, samples=5, baseline="mean", learning_rate=1e-4, monitor="val_cider_d", seed=1
    )  # fmt: skip
    objective = SelfCritical(decoder, vocabulary, split, split, recipe, 20)
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
            f"{median(spent[2:]) / median(times[2:]):.0%} of it for the rewards",
            end="",
        )
