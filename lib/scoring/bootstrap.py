"""How far chance alone moves a score: the bootstrap (Efron 1979), and the paired one for two systems (Koehn 2004).

Images are drawn with replacement, as many as there are, again and again, and scored together each time. What varies is
which images were asked about; the references, and so CIDEr-D's idf, stay as they are, and so does the trained model.
"""

import numpy as np

from lib.scoring.scores import METRICS, combine

_RESAMPLES, _SEED = 1000, 0
_BOUNDS = (0.025, 0.975)  # of the middle 95%

Intervals = dict[str, tuple[float, float]]


def intervals(measures: np.ndarray) -> Intervals:
    """The 95% interval of each score, from measures (I, 12) as `lib.scoring.measure` gives them."""
    return _intervals(_resampled(measures))


def difference_intervals(measures: np.ndarray, others: np.ndarray) -> Intervals:
    """The 95% interval of how much higher each score of `measures` is; both (I, 12), row by row of the same images."""
    return _intervals(_resampled(measures) - _resampled(others))


def _resampled(measures: np.ndarray) -> np.ndarray:
    """The scores of each sample, (resamples, 6). Every call draws the same images, so two systems are paired."""
    images, random = len(measures), np.random.default_rng(_SEED)
    sums = [measures[random.integers(images, size=images)].sum(axis=0) for _ in range(_RESAMPLES)]
    return combine(np.array(sums), images)


def _intervals(samples: np.ndarray) -> Intervals:
    low, high = np.quantile(samples, _BOUNDS, axis=0).tolist()
    return dict(zip(METRICS, zip(low, high, strict=True), strict=True))
