"""Means over seeds with bootstrap intervals, and differences seed by seed: the only copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 10_000
_SEED = 20231110  # of the resampling: a report made twice is the same


class Interval(NamedTuple):
    """A mean over seeds and its interval.

    Attributes:
        mean: (...) of the seeds.
        low: (...) lower end; NaN with one seed.
        high: (...) upper end.
        n: how many seeds.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int

    def text(self, digits: int = 3) -> str:
        """``1.234 [1.100, 1.300]``; the mean alone where one seed gives no interval."""
        if self.n < 2:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def decimals(values: ArrayLike) -> int:
    """How many decimals show numbers of this size to about four digits."""
    size = float(np.nanmax(np.abs(np.asarray(values, float)), initial=0.0))
    return 1 if size >= 100 else 2 if size >= 10 else 3


def bootstrap(values: ArrayLike, level: float = 0.95, resamples: int = _RESAMPLES) -> Interval:
    """The mean over seeds with its percentile bootstrap interval.

    Every position is resampled with the same seeds. Intervals from very few seeds are too narrow, as
    percentile intervals are: with seeds from a normal source, those of 95 % cover the mean in 75 % of cases
    with three seeds, 83 % with five, 90 % with ten, 93 % with thirty.

    Args:
        values: (seeds, ...).
        level: of the interval.
        resamples: how often seeds are drawn with replacement.
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
    # means of equal numbers can differ in their last digit
    return Interval(mean, np.minimum(low, mean), np.maximum(high, mean), n)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], level: float = 0.95
) -> Interval | None:
    """The mean of ``values - baseline`` over the seeds that both have, with its interval.

    Args:
        values: by seed.
        baseline: by seed.
        level: of the interval.

    Returns:
        None where they have no seed in common.
    """
    common = sorted(values.keys() & baseline.keys())
    if not common:
        return None
    return bootstrap([values[seed] - baseline[seed] for seed in common], level)
