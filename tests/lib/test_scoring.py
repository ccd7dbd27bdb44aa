"""Scores equal those of coco-caption's code (pycocoevalcap). Other tests cover cases that this code does not handle."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from nltk.translate.bleu_score import modified_precision

from lib.scoring import (
    METRICS,
    Scorer,
    corpus_scores,
    explain_low_cider_d,
    image_scores,
    measure,
    score,
    score_captions,
)
from lib.scoring.cider import CiderD
from lib.scoring.ngrams import ORDERS
from lib.scoring.rouge import rouge_l
from lib.text.tokenizer import tokenize
from tests.realdata import REALDATA, needs_realdata

words = st.one_of(
    st.sampled_from(["a", "a", "dog", "cat", "runs", "on", "the", "red", "grass", "café", "-lrb-", "n't", "犬"]),
    st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=3),
)
caption = st.lists(words, max_size=9)
reference = st.lists(words, min_size=1, max_size=9)  # not empty, because coco-caption fails if all references are empty
images = st.dictionaries(
    st.integers(1, 10**6), st.tuples(st.lists(reference, min_size=1, max_size=6), caption), min_size=1, max_size=6
)


def coco_caption_scores(references, hypotheses):
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    refs = {i: [" ".join(r) for r in rs] for i, rs in references.items()}
    hyps = {i: [" ".join(h)] for i, h in hypotheses.items()}
    scorer = BleuScorer(n=4)
    for i in refs:
        scorer += (hyps[i][0], refs[i])
    bleus = scorer.compute_score(option="closest", verbose=0)
    rouge, cider = (metric.compute_score(refs, hyps) for metric in (Rouge(), Cider()))
    corpus, each = (dict(zip(METRICS, [*bleus[i], rouge[i], cider[i]], strict=True)) for i in (0, 1))
    return corpus, each


def assert_equal_to_coco_caption(references, hypotheses):
    corpus, each = coco_caption_scores(references, hypotheses)
    ours, ours_each = score(references, hypotheses), image_scores(measure(references, hypotheses))
    assert list(ours) == list(ours_each) == list(METRICS)
    for name in METRICS:
        assert ours[name] == pytest.approx(corpus[name], rel=1e-9, abs=1e-12), name
        np.testing.assert_allclose(ours_each[name], each[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=150)
@given(images)
@example({1: ([["a"]], [])})
@example({1: ([["a"] * 2, ["a"] * 4], ["a"] * 3)})  # BLEU uses the shorter of two equally close lengths
@example({1: ([["a", "dog"]], ["a"]), 2: ([["a"], ["the", "cat"], ["a", "a", "a"]], ["a", "a", "a", "a", "a"])})
@example({1: ([["a"] * 9], ["a"] * 9), 2: ([["dog"] * 2], [])})
def test_random_captions_score_as_in_coco_caption(data):
    assert_equal_to_coco_caption({i: rs for i, (rs, _) in data.items()}, {i: h for i, (_, h) in data.items()})


@given(st.lists(reference, min_size=1, max_size=5), st.lists(words, min_size=4, max_size=9))
def test_bleu_counts_equal_nltks(references, hypothesis):
    counted = measure({1: references}, {1: hypothesis})[0]
    for n in range(1, 5):
        # In a caption of fewer than n words, NLTK counts one n-gram, coco-caption none. So these have 4 words or more.
        expected = modified_precision(references, hypothesis, n)
        assert (counted[n - 1], counted[3 + n]) == (expected.numerator, expected.denominator)


@needs_realdata
def test_real_captions_score_as_in_coco_caption():
    """Score the first caption of each image of COCO's val2017 against its other captions."""
    captions: dict[int, list[list[str]]] = {}
    for row in json.loads((REALDATA / "coco/captions_val2017.json").read_text())["annotations"]:
        captions.setdefault(row["image_id"], []).append(tokenize(row["caption"]))
    assert len(captions) == 5000
    assert_equal_to_coco_caption({i: r[1:] for i, r in captions.items()}, {i: r[0] for i, r in captions.items()})


def test_empty_references_do_not_raise():
    assert set(score({1: [[]], 2: [[]]}, {1: [], 2: ["a"]})) == set(METRICS)


def test_the_order_of_the_images_does_not_matter():
    references = {1: [["a", "dog"]], 2: [["a", "red", "cat"]]}
    measures = measure(references, {2: ["a", "cat"], 1: ["a", "dog"]})
    assert corpus_scores(measures) == score(dict(reversed(references.items())), {1: ["a", "dog"], 2: ["a", "cat"]})
    assert image_scores(measures)["rouge_l"][1] == pytest.approx(1)


def common_subsequence(a, b):
    """Return the length of the longest common subsequence, by the usual dynamic programming."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80), st.lists(st.sampled_from("abc"), min_size=1))
def test_rouge_l_follows_from_the_longest_common_subsequence(a, b):
    common = common_subsequence(a, b)
    precision, recall = common / len(a), common / len(b)
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if common else 0
    assert rouge_l([b], a) == pytest.approx(expected)


@given(st.lists(st.lists(reference, min_size=1, max_size=4), min_size=2, max_size=5), st.data())
def test_cider_d_of_repeated_images_equals_that_of_each_alone(references, data):
    cider = CiderD(references)
    rows = data.draw(st.lists(st.integers(0, len(references) - 1), max_size=8))
    hypotheses = [data.draw(caption) for _ in rows]
    expected = []
    for row, tokens in zip(rows, hypotheses, strict=True):
        others = [tokens if i == row else [] for i in range(len(references))]
        expected.append(coco_caption_scores(dict(enumerate(references)), dict(enumerate(others)))[1]["cider_d"][row])
    np.testing.assert_allclose(cider.scores(rows, hypotheses), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(cider.scores(rows, hypotheses), cider.scores(rows, hypotheses))


@given(st.lists(st.lists(reference, min_size=1, max_size=4), min_size=1, max_size=5), st.lists(caption, max_size=4))
def test_cider_d_against_several_images_equals_that_against_each(references, hypotheses):
    cider = CiderD(references)
    rows = np.arange(len(hypotheses) * 3).reshape(-1, 3) % len(references)
    expected = [cider.scores(column, hypotheses) for column in rows.T]
    np.testing.assert_allclose(cider.scores(rows, hypotheses), np.stack(expected, axis=1), rtol=1e-12)


@given(st.lists(st.lists(reference, min_size=1, max_size=4), min_size=1, max_size=5), st.lists(caption, max_size=4))
def test_weighted_sums_of_cider_d_equal_those_of_the_scores(references, hypotheses):
    cider, images = CiderD(references), np.arange(len(references) + 1) % len(references)  # the first image twice
    weights = np.linspace(-1, 2, len(images))
    expected = cider.scores(np.tile(images, (len(hypotheses), 1)), hypotheses) @ weights
    np.testing.assert_allclose(cider.weighted_sums(images, weights, hypotheses), expected, rtol=1e-9, atol=1e-12)


@given(st.lists(st.tuples(st.lists(reference, min_size=1, max_size=4), caption), min_size=1, max_size=5))
def test_cider_d_of_token_ids_equals_that_of_words(data):
    ids: dict[str, int] = {}

    def to_ids(tokens):
        return [ids.setdefault(word, len(ids)) for word in tokens]

    images, hypotheses = range(len(data)), [tokens for _, tokens in data]
    by_words = CiderD([references for references, _ in data]).scores(images, hypotheses)
    by_ids = CiderD([[to_ids(tokens) for tokens in references] for references, _ in data])
    np.testing.assert_allclose(by_ids.scores(images, [*map(to_ids, hypotheses)]), by_words, rtol=1e-12)


def cider_r(references, hypotheses):
    """Return CIDEr-R of each image, computed directly from the formulas in section 4 of the paper and its code."""
    documents = [
        Counter(ngram for own in references for ngram in {g for tokens in own for g in grams(tokens, n)})
        for n in ORDERS
    ]

    def vector(tokens, n):
        idf = {g: np.log(len(references)) - np.log(max(1, documents[n - 1][g])) for g in grams(tokens, n)}
        return {g: count * idf[g] for g, count in Counter(grams(tokens, n)).items()}

    def similarity(hypothesis, reference):
        total = 0.0
        for n in ORDERS:
            a, b = vector(hypothesis, n), vector(reference, n)
            norm = np.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
            total += sum(min(a[g], b.get(g, 0)) * b.get(g, 0) for g in a) / norm / 4 if norm else 0
        counts, others = Counter(hypothesis), Counter(reference)
        repeats = [1 / (1 + abs((others[word] or 1) - count)) for word, count in counts.items()]
        ratio = (len(hypothesis) - len(reference)) / (len(reference) - 1)
        return total * np.prod(repeats) ** (0.8 / len(repeats)) * np.exp(-(ratio**2)) ** 0.2

    pairs = zip(references, hypotheses, strict=True)
    return [10 * np.mean([similarity(hypothesis, reference) for reference in own]) for own, hypothesis in pairs]


def grams(tokens, n):
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


long_caption = st.lists(st.sampled_from("abcde"), min_size=2, max_size=9)


@given(st.lists(st.tuples(st.lists(long_caption, min_size=1, max_size=3), long_caption), min_size=1, max_size=4))
def test_cider_r_is_the_papers_formula(data):
    references, hypotheses = map(list, zip(*data, strict=True))
    found = Scorer(dict(enumerate(references))).cider_r(hypotheses)
    np.testing.assert_allclose(found, cider_r(references, hypotheses), rtol=1e-9, atol=1e-9)


def test_a_cider_d_of_0_is_explained_only_if_idf_is_the_reason():
    def explain(references: dict[int, list[str]], captions: dict[int, str]) -> str | None:
        tokens = {i: [text.split() for text in texts] for i, texts in references.items()}
        hypotheses = {i: text.split() for i, text in captions.items()}
        return explain_low_cider_d(tokens, hypotheses, score(tokens, hypotheses))

    same = {i: ["a shape on a sheet", "a shape"] for i in range(9)}
    varied = {i: [f"a {colour} shape", "a shape"] for i, colour in enumerate(["red", "blue", "big"])}
    assert "only image" in explain({1: ["a red dog"]}, {1: "a red dog"})
    assert "100%" in explain(same, dict.fromkeys(same, "a shape"))
    assert "all 3 images" in explain(varied, dict.fromkeys(varied, "a shape"))
    assert explain(varied, {0: "a red shape", 1: "a blue shape", 2: "a big shape"}) is None  # CIDEr-D is not 0
    assert explain({1: ["a dog"], 2: ["the cat"]}, {1: "runs", 2: "runs"}) is None  # the captions are wrong


def test_captions_as_text_score_as_their_tokens():
    references, captions = {"x": ["A dog, running.", "The dog"], "y": ["Two cats."]}, {"x": "A dog!", "y": "two CATS"}
    tokens = {"x": [["a", "dog", "running"], ["the", "dog"]], "y": [["two", "cats"]]}
    assert score_captions(references, captions) == score(tokens, {"x": ["a", "dog"], "y": ["two", "cats"]})
    assert score_captions(references, captions, str.split)["bleu_1"] < 1


def test_captions_without_references_are_an_error():
    for references, hypotheses in (({1: [["a"]]}, {2: ["a"]}), ({1: []}, {1: ["a"]})):
        with pytest.raises(ValueError, match="image 1"):
            score(references, hypotheses)
    with pytest.raises(ValueError, match="captions"):
        score({}, {})
