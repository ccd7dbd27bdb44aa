"""Scoring's speed, as a ratio to coco-caption's own code. `make bench` prints it; no figure decides a test."""

import json
import random
import time
from collections.abc import Callable

import pytest

from lib.evaluation.intervals import intervals
from lib.scoring import corpus_scores, image_scores, measure
from lib.scoring.cider import CiderD
from lib.text.tokenizer import tokenize
from tests.benchmarks.timing import paired
from tests.lib.test_scoring import yardstick
from tests.realdata import REALDATA, needs_realdata

IMAGES, SAMPLES = 64, 5  # of a step of self-critical training


@pytest.fixture(scope="module")
def captions():
    """Those of COCO's val2017: 5,000 images, 25,014 captions, each with its image's id."""
    rows = json.loads((REALDATA / "coco/captions_val2017.json").read_text())["annotations"]
    return [(row["image_id"], row["caption"]) for row in rows]


def tokens_of(captions: list[tuple[int, str]]) -> dict[int, list[list[str]]]:
    found: dict[int, list[list[str]]] = {}
    for image_id, caption in captions:
        found.setdefault(image_id, []).append(tokenize(caption))
    return found


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@needs_realdata
def test_scores_of_coco(captions, capsys):
    references = tokens_of(captions)
    hypotheses = {image_id: own[-1] for image_id, own in references.items()}
    measures = measure(references, hypotheses)

    def all_scores() -> None:
        measured = measure(references, hypotheses)
        corpus_scores(measured), image_scores(measured)

    tokenised, bounded = seconds(lambda: tokens_of(captions)), seconds(lambda: intervals(measures))
    yardstick(dict(list(references.items())[:9]), dict(list(hypotheses.items())[:9]))  # its imports
    ours, theirs = seconds(all_scores), seconds(lambda: yardstick(references, hypotheses))
    with capsys.disabled():
        print(
            f"\n{len(references)} images, {len(captions)} captions: tokens {tokenised:.2f} s, scores {ours:.2f} s, "
            f"{ours / theirs:.2f} times coco-caption's; intervals {bounded:.2f} s",
            end="",
        )


@needs_realdata
def test_rewards_of_a_step(captions, capsys):
    from pycocoevalcap.cider.cider import Cider

    references = list(tokens_of(captions).values())
    draw = random.Random(0)
    rows = [row for row in draw.sample(range(len(references)), IMAGES) for _ in range(SAMPLES)]
    samples = [draw.choice(references[row]) for row in rows]
    cider = CiderD(references)  # once, before the first step
    texts = {i: [" ".join(tokens) for tokens in references[row]] for i, row in enumerate(rows)}
    sampled = {i: [" ".join(tokens)] for i, tokens in enumerate(samples)}
    ratio, taken = paired(lambda: cider.scores(rows, samples), lambda: Cider().compute_score(texts, sampled))
    told = f"{taken * 1e3:.1f} ms, {ratio:.3f} times coco-caption's"
    with capsys.disabled():
        print(f"\nCIDEr-D of {SAMPLES} captions of {IMAGES} images, people's counted before: {told}", end="")
