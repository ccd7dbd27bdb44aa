"""Scores against coco-caption's own code (pycocoevalcap), and what coco-caption leaves open."""

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lib.scoring import score, score_each
from lib.scoring.bleu import bleu_statistics
from lib.text.tokenizer import tokenize
from tests.realdata import REALDATA

REAL = REALDATA / "coco/captions_val2017.json"

words = st.sampled_from(["a", "dog", "cat", "runs", "on", "the", "red", "big", "grass"])
caption = st.lists(words, max_size=9)
reference = st.lists(words, min_size=1, max_size=9)  # coco-caption cannot score against empty ones alone
images = st.dictionaries(
    st.integers(1, 10**6), st.tuples(st.lists(reference, min_size=1, max_size=4), caption), min_size=1, max_size=6
)


def yardstick(references, hypotheses):
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    refs = {i: [" ".join(r) for r in rs] for i, rs in references.items()}
    hyps = {i: [" ".join(h)] for i, h in hypotheses.items()}
    scorer = BleuScorer(n=4)
    for i in refs:
        scorer += (hyps[i][0], refs[i])
    bleus, _ = scorer.compute_score(option="closest", verbose=0)
    rouge, rouges = Rouge().compute_score(refs, hyps)
    cider, ciders = Cider().compute_score(refs, hyps)
    corpus = dict(
        zip(("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"), [*bleus, rouge, cider], strict=True)
    )
    return corpus, rouges, ciders


def assert_equal_to_the_yardstick(references, hypotheses):
    expected, rouges, ciders = yardstick(references, hypotheses)
    ours, each = score(references, hypotheses), score_each(references, hypotheses)
    assert list(ours) == list(expected)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    np.testing.assert_allclose(each["rouge_l"], rouges, rtol=1e-9)
    np.testing.assert_allclose(each["cider_d"], ciders, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(images)
def test_random_captions_score_as_with_coco_caption(data):
    assert_equal_to_the_yardstick({i: rs for i, (rs, _) in data.items()}, {i: h for i, (_, h) in data.items()})


def test_real_captions_score_as_with_coco_caption():
    if not REAL.exists():
        pytest.skip("COCO's captions file is not at hand")
    captions: dict[int, list[list[str]]] = {}
    for row in json.loads(REAL.read_text())["annotations"][:3000]:
        captions.setdefault(row["image_id"], []).append(tokenize(row["caption"]))
    held_out = {i: rows for i, rows in captions.items() if len(rows) >= 2}
    assert_equal_to_the_yardstick(
        {i: rows[1:] for i, rows in held_out.items()}, {i: rows[0] for i, rows in held_out.items()}
    )


def test_a_perfect_caption_has_full_marks():
    tokens = ["a", "dog", "runs", "on", "the", "grass"]
    found = score({1: [tokens], 2: [["a", "cat"]]}, {1: tokens, 2: ["a", "cat"]})
    assert found["bleu_1"] == pytest.approx(1)
    assert found["rouge_l"] == pytest.approx(1)


def test_an_empty_caption_scores_nothing_and_does_not_raise():
    assert score({1: [["a", "dog"]]}, {1: []})["bleu_4"] == 0


def test_the_closest_reference_length_is_the_shorter_of_two_as_close():
    assert bleu_statistics([["a"] * 2, ["a"] * 4], ["a"] * 3)[-1] == 2


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ({}, {}, "no captions"),
        ({1: [["a"]]}, {2: ["a"]}, "not of the same images"),
        ({1: []}, {1: ["a"]}, "no reference"),
    ],
)
def test_what_cannot_be_scored_is_refused(references, hypotheses, message):
    with pytest.raises(ValueError, match=message):
        score(references, hypotheses)
