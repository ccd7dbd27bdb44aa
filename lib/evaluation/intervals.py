"""Compute 95% confidence intervals by the bootstrap (Efron 1979), paired for two systems (Koehn 2004).

Each resample draws I of the I images, with replacement, and computes the scores of this sample. Only the choice of
images varies. The trained model, the references and the idf of CIDEr-D stay the same.
"""

from collections.abc import Iterator

import numpy as np

from lib.scoring import METRICS, combine

Interval = tuple[float, float]


def intervals(measures: np.ndarray) -> dict[str, Interval]:
    """Return the interval of each score, from measures (I, 12) of `lib.scoring.measure`."""
    return dict(zip(METRICS, map(_interval, _resampled_scores(measures).T), strict=True))


def difference_intervals(measures: np.ndarray, others: np.ndarray) -> dict[str, Interval]:
    """Return the interval of each score difference, `measures` minus `others`. Both are (I, 12), of the same images."""
    differences = _resampled_scores(measures) - _resampled_scores(others)
    return dict(zip(METRICS, map(_interval, differences.T), strict=True))


def mean_interval(values: np.ndarray) -> Interval:
    """Return the interval of the mean of `values` (I,), one per image."""
    return _interval(np.array([values[rows].mean() for rows in _resamples(len(values))]))


def pairs_interval(values: np.ndarray) -> Interval:
    """Return the interval of the mean of `values` (I, I) over all pairs of two different images."""
    images, off_diagonal = len(values), values * (1.0 - np.eye(len(values)))
    draws = (np.bincount(rows, minlength=images) for rows in _resamples(images))  # how often each image is drawn
    # Skip a resample that has drawn only one image, because it has no pairs.
    return _interval(np.array([n @ off_diagonal @ n / (images**2 - n @ n) for n in draws if n.max() < images]))


def _resamples(images: int) -> Iterator[np.ndarray]:
    """Yield the rows of each of 1,000 resamples. Every call draws the same rows, so that two systems are paired."""
    rng = np.random.default_rng(0)
    return (rng.integers(images, size=images) for _ in range(1000))


def _resampled_scores(measures: np.ndarray) -> np.ndarray:
    """Return the scores of each resample, (resamples, 6)."""
    return combine(np.array([measures[rows].sum(axis=0) for rows in _resamples(len(measures))]), len(measures))


def _interval(scores: np.ndarray) -> Interval:
    low, high = np.quantile(scores, (0.025, 0.975)).tolist()
    return low, high
