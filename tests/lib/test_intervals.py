"""Bootstrap intervals, against resamples scored one by one and against the textbook."""

import numpy as np
import pytest

from lib.evaluation.intervals import difference_intervals, intervals, mean_interval, pairs_interval
from lib.scoring import METRICS, corpus_scores, measure

WORDS = ["a", "red", "dog", "runs", "on", "the", "green", "grass", "with", "one", "big", "cat"]


@pytest.fixture(scope="module")
def measures():
    """Return the measures, (200, 12) each, of captions of the same images with 50% and with 70% right words."""
    rng = np.random.default_rng(1)
    references = {i: [rng.choice(WORDS, 8).tolist() for _ in range(3)] for i in range(200)}

    def captions(right: float) -> dict[int, list[str]]:
        return {i: [word if rng.random() < right else "x" for word in refs[0]] for i, refs in references.items()}

    return measure(references, captions(0.5)), measure(references, captions(0.7))


def test_intervals_equal_those_of_resamples_scored_one_by_one(measures):
    found = intervals(measures[0])
    assert found == intervals(measures[0].copy())  # results are reproducible
    rng = np.random.default_rng(7)
    resamples = [corpus_scores(measures[0][rng.integers(200, size=200)]) for _ in range(2000)]
    for name in METRICS:
        values = [scores[name] for scores in resamples]
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.3 * np.std(values)), name


def test_the_interval_of_a_mean_is_the_textbooks(measures):
    rouge = measures[0][:, 10]
    margin = 1.96 * rouge.std() / np.sqrt(len(rouge))
    assert intervals(measures[0])["rouge_l"] == pytest.approx([rouge.mean() - margin, rouge.mean() + margin], rel=0.02)
    assert mean_interval(rouge) == pytest.approx(intervals(measures[0])["rouge_l"])


def test_the_interval_of_a_mean_over_pairs_equals_that_of_fresh_sets_of_images():
    rng = np.random.default_rng(3)
    off_diagonal = ~np.eye(80, dtype=bool)

    def pairs() -> np.ndarray:
        """Return values that depend on the images of the row and the column, with a diagonal that must not count."""
        return np.where(off_diagonal, rng.random(80)[:, None] * rng.random(80), 9.0)

    low, high = np.quantile([pairs()[off_diagonal].mean() for _ in range(2000)], [0.025, 0.975])
    widths = []
    for values in (pairs() for _ in range(20)):
        own_low, own_high = pairs_interval(values)
        assert own_low < values[off_diagonal].mean() < own_high
        widths.append(own_high - own_low)
    assert np.mean(widths) == pytest.approx(high - low, rel=0.1)
    assert pairs_interval(np.array([[9.0, 1.0], [0.0, 9.0]])) == (0.5, 0.5)


def test_a_better_run_differs_from_a_worse_one_and_not_from_itself(measures):
    worse, better = measures
    assert all(0 < low < high for low, high in difference_intervals(better, worse).values())
    assert set(difference_intervals(worse, worse).values()) == {(0, 0)}


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    easiness = rng.random(300)[:, None]  # per image, the same for both runs
    one, other = np.zeros((2, 300, 12))
    one[:, 10:], other[:, 10:] = easiness, easiness + rng.normal(0.02, 0.01, (300, 1))
    low, high = difference_intervals(other, one)["cider_d"]
    unpaired_low, unpaired_high = intervals(one)["cider_d"]
    assert 0.015 < low < high < 0.025
    assert high - low < (unpaired_high - unpaired_low) / 10
