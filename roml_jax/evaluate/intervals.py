"""Means over seeds with bootstrap confidence intervals, and paired differences over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 10_000
_SEED = 20231110  # random seed of the resampling, so that a repeated report is identical


class Interval(NamedTuple):
    """A mean over seeds and its confidence interval.

    Attributes:
        mean: (...) mean over the seeds.
        low: (...) lower end; NaN with one seed.
        high: (...) upper end; NaN with one seed.
        n: number of seeds.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int

    def text(self, digits: int = 3) -> str:
        """The interval as text, ``1.234 [1.100, 1.300]``; only the mean with one seed."""
        if self.n < 2:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def decimals(values: ArrayLike) -> int:
    """The number of decimals that shows the largest of the values with about four digits."""
    size = float(np.nanmax(np.abs(np.asarray(values, float)), initial=0.0))
    return 1 if size >= 100 else 2 if size >= 10 else 3


def bootstrap(values: ArrayLike, level: float = 0.95, resamples: int = _RESAMPLES) -> Interval:
    """The mean over seeds with its percentile bootstrap interval.

    All positions use the same resamples of the seeds. Percentile intervals from few seeds are too narrow. For
    normally distributed values, the 95 % interval covers the mean in 75 % of cases with three seeds, in 83 %
    with five, in 90 % with ten and in 93 % with thirty.

    Args:
        values: (seeds, ...).
        level: nominal coverage of the interval.
        resamples: number of bootstrap resamples.
    """
    values = np.asarray(values, float)
    n = len(values)
    mean = values.mean(axis=0)
    if n < 2:
        unknown = np.full(mean.shape, np.nan)
        return Interval(mean, unknown, unknown, n)
    counts = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=resamples)
    means = (counts / n) @ values.reshape(n, -1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).reshape(2, *mean.shape)
    # rounding can put the mean of equal values just outside the interval
    return Interval(mean, np.minimum(low, mean), np.maximum(high, mean), n)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], level: float = 0.95
) -> Interval | None:
    """The mean of ``values - baseline`` over the common seeds, with its bootstrap interval.

    Args:
        values: values by seed.
        baseline: values of the baseline by seed.
        level: nominal coverage of the interval.

    Returns:
        The interval, or None if there is no common seed.
    """
    common = sorted(values.keys() & baseline.keys())
    if not common:
        return None
    return bootstrap([values[seed] - baseline[seed] for seed in common], level)
