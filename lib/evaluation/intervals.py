"""How far chance alone moves a score: the bootstrap (Efron 1979), and the paired one for two systems (Koehn 2004).

Images are drawn with replacement, as many as there are, again and again, and scored together each time. What varies is
which images were asked about; the references, and so CIDEr-D's idf, stay as they are, and so does the trained model.
"""

from collections.abc import Iterator

import numpy as np

from lib.scoring.scores import METRICS, combine

_RESAMPLES, _SEED = 1000, 0
_BOUNDS = (0.025, 0.975)  # of the middle 95%

Interval = tuple[float, float]
Intervals = dict[str, Interval]


def intervals(measures: np.ndarray) -> Intervals:
    """The 95% interval of each score, from measures (I, 12) as `lib.scoring.measure` gives them."""
    return _intervals(_resampled(measures))


def difference_intervals(measures: np.ndarray, others: np.ndarray) -> Intervals:
    """The 95% interval of how much higher each score of `measures` is; both (I, 12), row by row of the same images."""
    return _intervals(_resampled(measures) - _resampled(others))


def mean_interval(values: np.ndarray) -> Interval:
    """The 95% interval of the mean of `values` (I,), one an image."""
    low, high = _ends(np.array([values[rows].mean() for rows in _samples(len(values))])).tolist()
    return low, high


def pairs_interval(values: np.ndarray) -> Interval:
    """The 95% interval of the mean of `values` (I, I) over the pairs of two different images."""
    images, of_pairs = len(values), values * (1.0 - np.eye(len(values)))
    drawn = (np.bincount(rows, minlength=images) for rows in _samples(images))  # how often each image is
    # A sample of one image alone has no pairs.
    means = [n @ of_pairs @ n / (images**2 - n @ n) for n in drawn if n.max() < images]
    low, high = _ends(np.array(means)).tolist()
    return low, high


def _samples(images: int) -> Iterator[np.ndarray]:
    """The rows of the images of each sample. Every call draws the same ones, so two systems are paired."""
    random = np.random.default_rng(_SEED)
    return (random.integers(images, size=images) for _ in range(_RESAMPLES))


def _resampled(measures: np.ndarray) -> np.ndarray:
    """The scores of each sample, (resamples, 6)."""
    sums = [measures[rows].sum(axis=0) for rows in _samples(len(measures))]
    return combine(np.array(sums), len(measures))


def _intervals(samples: np.ndarray) -> Intervals:
    low, high = _ends(samples).tolist()
    return dict(zip(METRICS, zip(low, high, strict=True), strict=True))


def _ends(samples: np.ndarray) -> np.ndarray:
    """The lower ends and the upper ones, (2, ...), of the scores of the samples, (resamples, ...)."""
    return np.quantile(samples, _BOUNDS, axis=0)
