"""Seconds to score captions, and the ratio to coco-caption's own code. `make bench` prints them."""

import json
import random
from timeit import timeit

import pytest

from lib.evaluation.intervals import intervals
from lib.scoring import corpus_scores, image_scores, measure
from lib.scoring.cider import CiderD
from lib.text.tokenizer import tokenize
from tests.benchmarks.bench_start import PAIRS as START_PAIRS, seconds
from tests.benchmarks.timing import paired
from tests.lib.test_scoring import coco_caption_scores
from tests.realdata import REALDATA, needs_realdata

IMAGES, SAMPLES = 64, 5  # in one step of self-critical training

pytestmark = needs_realdata


@pytest.fixture(scope="module")
def captions():
    """Return the 25,014 captions of the 5,000 images of COCO's val2017: (image id, text)."""
    rows = json.loads((REALDATA / "coco/captions_val2017.json").read_text())["annotations"]
    return [(row["image_id"], row["caption"]) for row in rows]


def tokens_of(captions: list[tuple[int, str]]) -> dict[int, list[list[str]]]:
    found: dict[int, list[list[str]]] = {}
    for image_id, caption in captions:
        found.setdefault(image_id, []).append(tokenize(caption))
    return found


def test_scores_against_coco_caption(captions, show):
    references = tokens_of(captions)
    hypotheses = {image_id: own[-1] for image_id, own in references.items()}
    measures = measure(references, hypotheses)

    def all_scores() -> None:
        measured = measure(references, hypotheses)
        corpus_scores(measured), image_scores(measured)

    coco_caption_scores({1: [["a"]]}, {1: ["a"]})  # imports coco-caption before the timing
    ours = timeit(all_scores, number=1)
    ratio = ours / timeit(lambda: coco_caption_scores(references, hypotheses), number=1)
    tokenized = timeit(lambda: tokens_of(captions), number=1)
    bounded = timeit(lambda: intervals(measures), number=1)
    show(
        f"{len(references)} images, {len(captions)} captions: tokens {tokenized:.2f} s, scores {ours:.2f} s, "
        f"{ratio:.2f} times coco-caption's; intervals {bounded:.2f} s"
    )


def test_score_from_start_to_end(captions, show, tmp_path):
    """The command `score` on the last caption of each image, against the others; coco-caption without its tokenizer."""
    references = tokens_of(captions)
    hypotheses = {image_id: own[-1] for image_id, own in references.items()}
    results = [{"image_id": image_id, "caption": " ".join(tokens)} for image_id, tokens in hypotheses.items()]
    (tmp_path / "results.json").write_text(json.dumps(results))
    command = ("-m", "lib.app.score", tmp_path / "results.json", REALDATA / "coco/captions_val2017.json")
    ratio, ours = paired(
        lambda: seconds(*command), lambda: coco_caption_scores(references, hypotheses), pairs=START_PAIRS
    )
    show(
        f"{len(references)} images, `score` from start to end: {ours:.2f} s, "
        f"{ratio:.2f} times coco-caption's scores without its tokenizer"
    )


def test_rewards_against_coco_caption(captions, show):
    from pycocoevalcap.cider.cider import Cider

    references = list(tokens_of(captions).values())
    rng = random.Random(0)
    rows = [row for row in rng.sample(range(len(references)), IMAGES) for _ in range(SAMPLES)]
    samples = [rng.choice(references[row]) for row in rows]
    cider = CiderD(references)  # counts the references, as training does once before the first step
    texts = {i: [" ".join(tokens) for tokens in references[row]] for i, row in enumerate(rows)}
    sampled = {i: [" ".join(tokens)] for i, tokens in enumerate(samples)}
    ratio, seconds = paired(lambda: cider.scores(rows, samples), lambda: Cider().compute_score(texts, sampled))
    show(
        f"CIDEr-D of {SAMPLES} captions of {IMAGES} images, without counting the references: "
        f"{seconds * 1e3:.1f} ms, {ratio:.3f} times coco-caption's"
    )
