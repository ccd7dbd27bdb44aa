"""Bootstrap intervals against samples that are scored one by one, and against what is known of a mean."""

import numpy as np
import pytest

from lib.evaluation.intervals import difference_intervals, intervals, mean_interval, pairs_interval
from lib.scoring import METRICS, corpus_scores, measure

WORDS = ["a", "red", "dog", "runs", "on", "the", "green", "grass", "with", "one", "big", "cat"]


@pytest.fixture(scope="module")
def measures():
    """Those of captions that are half right, and of some that are better: (200, 12) each, of the same images."""
    random = np.random.default_rng(1)
    references = {i: [random.choice(WORDS, 8).tolist() for _ in range(3)] for i in range(200)}

    def captions(right: float) -> dict[int, list[str]]:
        return {
            i: [word if random.random() < right else "x" for word in refs[0]] for i, refs in references.items()
        }  # fmt: skip

    return measure(references, captions(0.5)), measure(references, captions(0.7))


def test_the_interval_is_that_of_samples_scored_one_by_one(measures):
    low_and_high = intervals(measures[0])
    random = np.random.default_rng(7)
    samples = [corpus_scores(measures[0][random.integers(200, size=200)]) for _ in range(2000)]
    for name in METRICS:
        values = [sample[name] for sample in samples]
        spread = np.std(values)
        assert low_and_high[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.3 * spread), name


def test_the_interval_of_a_mean_is_the_textbooks(measures):
    rouge = measures[0][:, 10]
    margin = 1.96 * rouge.std() / np.sqrt(len(rouge))
    assert intervals(measures[0])["rouge_l"] == pytest.approx([rouge.mean() - margin, rouge.mean() + margin], rel=0.02)

    assert mean_interval(rouge) == pytest.approx(intervals(measures[0])["rouge_l"])


def test_the_interval_of_a_mean_over_pairs_is_that_of_other_sets_of_images():
    random = np.random.default_rng(3)

    def pairs() -> np.ndarray:
        """What depends on the row's image and on the column's; an image and itself do not count."""
        values = random.random(80)[:, None] * random.random(80)
        return np.where(np.eye(80, dtype=bool), 9.0, values)

    means = [values[~np.eye(80, dtype=bool)].mean() for values in (pairs() for _ in range(2000))]
    low, high = np.quantile(means, [0.025, 0.975])
    widths = []
    for _ in range(20):
        values = pairs()
        own_low, own_high = pairs_interval(values)
        assert own_low < values[~np.eye(80, dtype=bool)].mean() < own_high
        widths.append(own_high - own_low)
    assert np.mean(widths) == pytest.approx(high - low, rel=0.1)
    assert pairs_interval(np.array([[9.0, 1.0], [0.0, 9.0]])) == (0.5, 0.5)


def test_a_better_run_is_told_from_a_worse_one_and_from_itself(measures):
    worse, better = measures
    for low, high in difference_intervals(better, worse).values():
        assert 0 < low < high
    assert set(difference_intervals(worse, worse).values()) == {(0, 0)}


def test_pairing_narrows_the_interval_of_a_difference():
    random = np.random.default_rng(0)
    easy = random.random(300)  # how easy an image is, to both runs alike
    one, other = np.zeros((2, 300, 12))
    one[:, 10:], other[:, 10:] = easy[:, None], easy[:, None] + random.normal(0.02, 0.01, (300, 1))
    low, high = difference_intervals(other, one)["cider_d"]
    apart_low, apart_high = intervals(one)["cider_d"]
    assert 0.015 < low < high < 0.025
    assert high - low < (apart_high - apart_low) / 10


def test_intervals_are_the_same_every_time(measures):
    assert intervals(measures[0]) == intervals(measures[0].copy())
