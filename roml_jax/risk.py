"""Quantiles and the conditional value at risk; no other module implements them.

Functions take an array of fixed size and a mask of the values that count, so that they work with traced
risk levels, diverged tasks and vmapped seeds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from roml_jax.types import Array

_COMPARE_UP_TO = 256


def finite(x: Array) -> Array:
    """Clips infinities to large finite numbers; keeps the order and makes all differences finite."""
    limit = jnp.finfo(x.dtype).max / 8
    return jnp.clip(x, -limit, limit)


def _lerp(low: Array, high: Array, t: Array) -> Array:
    """Linear interpolation that returns exactly the common value where both ends are equal."""
    return jnp.where(t < 0.5, low + (high - low) * t, high - (high - low) * (1 - t))


def order(*keys: Array) -> Array:
    """Indices (n,) that sort by the first key (n,); ties are sorted by the next key, then by position.

    Up to 256 values are sorted by comparing all pairs, which takes a third of the time of XLA's sort on a
    CPU. Keys must not be NaN.
    """
    position = jnp.arange(keys[0].shape[0])
    if position.size > _COMPARE_UP_TO:
        return jax.lax.sort((*keys, position), num_keys=len(keys))[-1]
    before = position[None] < position[:, None]
    for key in reversed(keys):
        before = (key[None] < key[:, None]) | ((key[None] == key[:, None]) & before)
    return jnp.zeros_like(position).at[before.sum(axis=1)].set(position, unique_indices=True)


def _ascending(x: Array, *along: Array) -> tuple[Array, ...]:
    """Sorts x along its first axis, NaN last, and the arrays ``along`` (of its shape) in the same order."""
    return jax.lax.sort((x, *along), dimension=0, num_keys=1)


def _latest(where: Array) -> Array:
    """For each position, the last position up to it where ``where`` is True, or else the first such one."""
    position = jnp.arange(where.shape[0])
    return jax.lax.cummax(jnp.where(where, position, jnp.argmax(where)))


def _interpolated(x: Array | float, xs: Array, ys: Array) -> Array:
    """As ``jnp.interp`` for a scalar x and ascending xs (n,), which it compares at once.

    ``jnp.interp`` searches in a loop, which on a GPU launches kernels in every turn.
    """
    above = jnp.clip((xs <= x).sum(), 1, xs.shape[0] - 1)
    low, high, y_low, y_high = xs[above - 1], xs[above], ys[above - 1], ys[above]
    apart = high - low
    y = y_low + jnp.where(apart > 0, (x - low) / jnp.where(apart > 0, apart, 1) * (y_high - y_low), 0)
    return jnp.where(x < xs[0], ys[0], jnp.where(x > xs[-1], ys[-1], y))


def quantile(x: Array, q: Array | float, where: Array | None = None, *, assume_sorted: bool = False) -> Array:
    """The q-quantile with linear interpolation, as ``numpy.percentile(x[where], 100 * q)``.

    Args:
        x: (n,) values.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.
        assume_sorted: whether x is already in ascending order, NaN last.

    Returns:
        Scalar; +inf if no value counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    if not assume_sorted:
        x, where = _ascending(x, where)
    counted = jnp.cumsum(where)
    rank = q * jnp.maximum(counted[-1] - 1, 0).astype(x.dtype)
    low = jnp.floor(rank).astype(counted.dtype)
    high = jnp.minimum(low + 1, jnp.maximum(counted[-1] - 1, 0))
    lower, upper = x[(counted <= low).sum()], x[(counted <= high).sum()]
    # an integer rank may have an infinite upper neighbour, and inf * 0 is NaN
    value = jnp.where(rank == low, lower, _lerp(lower, upper, rank - low))
    return jnp.where(counted[-1] > 0, value, jnp.inf)


def underlying_level(q: Array | float, n: Array | int) -> Array:
    """The level whose quantile in a sample of n estimates the q-quantile of the sampled distribution.

    The smallest and largest of n draws estimate the levels 1/(n+1) and n/(n+1), not 0 and 1.
    Source: RoML's CEM, ``alpha (n+1)/(n-1) - 1/(n-1)`` clipped to [0, 1].
    """
    steps = jnp.maximum(n - 1, 1)
    corrected = jnp.clip(q * (n + 1) / steps - 1 / steps, 0.0, 1.0)
    return jnp.where(jnp.asarray(n) > 1, corrected, jnp.asarray(q, corrected.dtype))


def weighted_quantile(
    x: Array, weights: Array, q: Array | float, where: Array | None = None, *, assume_sorted: bool = False
) -> Array:
    """The q-quantile of a weighted sample, by linear interpolation.

    A value's level is the midpoint of its step in the cumulative weights. Levels are rescaled so that the
    smallest value has level 0 and the largest level 1 (RoML's CEM).

    Args:
        x: (n,) values.
        weights: (n,) non-negative; if all that count are 0, they count as equal.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.
        assume_sorted: whether x is already in ascending order, NaN last.

    Returns:
        Scalar; +inf if no value counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    if not assume_sorted:
        x, where, weights = _ascending(x, where, weights)
    weights = jnp.where(where, weights, 0)
    weights = jnp.where((weights > 0).any(), weights, where.astype(weights.dtype))
    # values that do not count repeat the previous point, which leaves the interpolation unchanged
    latest = _latest(where)
    midpoint = (jnp.cumsum(weights) - 0.5 * weights)[latest]
    midpoint = midpoint - midpoint[0]
    total = midpoint[-1]
    level = jnp.where(total > 0, midpoint / jnp.where(total > 0, total, 1), 0)
    return jnp.where(where.any(), _interpolated(q, level, x[latest]), jnp.inf)


def cvar(
    returns: Array, alpha: Array | float, where: Array | None = None, *, assume_sorted: bool = False
) -> Array:
    """Conditional value at risk: the mean over the lowest ceil(alpha * n) returns.

    Args:
        returns: (n, ...) the CVaR is taken over the first axis.
        alpha: risk level in (0, 1]; may be traced.
        where: (n, ...) bool, which returns count; all of them if None.
        assume_sorted: whether returns are already in ascending order, NaN last.

    Returns:
        (...) the mean of the lowest returns, at least one. NaN if no return counts or if a return that
        counts is NaN, so that a diverged task is not silently dropped from the tail.
    """
    where = jnp.ones(returns.shape, bool) if where is None else where
    if not assume_sorted:
        returns, where = _ascending(returns, where)
    total = where.sum(axis=0)
    # a float32 product such as 0.07 * 100 may be slightly above the exact integer
    count = jnp.clip(jnp.ceil(jnp.asarray(alpha) * total * (1 - 1e-6)), 1, jnp.maximum(total, 1))
    in_tail = where & (jnp.cumsum(where, axis=0) <= count)
    worst = jnp.where(in_tail, returns, 0).sum(axis=0) / count
    is_defined = (total > 0) & ~(where & jnp.isnan(returns)).any(axis=0)
    return jnp.where(is_defined, worst, jnp.nan)


def masked_mean(x: Array, where: Array) -> Array:
    """Mean of x[where]; NaN if ``where`` is all False."""
    return jnp.where(where, x, 0).sum() / where.sum()


def standardised(x: Array, where: Array) -> Array:
    """The values minus their mean, divided by their (population) std.

    Args:
        x: (n,) values; an infinite one counts as the largest or smallest finite one.
        where: (n,) bool, which values count.

    Returns:
        (n,) finite numbers; 0 for values that do not count, and for all values if those that count are equal.
    """
    usable = where & jnp.isfinite(x)
    low = jnp.where(usable.any(), jnp.where(usable, finite(x), jnp.inf).min(), 0.0)
    high = jnp.where(usable.any(), jnp.where(usable, finite(x), -jnp.inf).max(), 0.0)
    # on [0, 1] first: the squares of large values would overflow
    unit = (jnp.clip(jnp.where(where, x, low), low, high) - low) / jnp.where(high > low, high - low, 1.0)
    count = jnp.maximum(where.sum(), 1)
    apart = jnp.where(where, unit - jnp.where(where, unit, 0).sum() / count, 0)
    std = jnp.sqrt(jnp.square(apart).sum() / count)
    return jnp.where(high > low, apart / jnp.where(std > 0, std, 1.0), 0.0)


def tail_level(mean: Array, returns: Array, where: Array, *, assume_sorted: bool = False) -> Array:
    """The level alpha at which CVaR_alpha of returns[where] equals ``mean``, linear between samples.

    Args:
        mean: () e.g. the mean return of the tasks that a sampler chose.
        returns: (n,) returns of tasks from the prior.
        where: (n,) bool, which returns count.
        assume_sorted: whether returns are already in ascending order, NaN last.

    Returns:
        () in [1 / count, 1]; NaN if no return counts.
    """
    if not assume_sorted:
        returns, where = _ascending(returns, where)
    counted, latest = jnp.cumsum(where), _latest(where)
    running = jnp.cumsum(jnp.where(where, returns, 0))[latest] / jnp.maximum(counted[latest], 1)
    level = _interpolated(mean, running, counted[latest] / jnp.maximum(counted[-1], 1))
    return jnp.where(counted[-1] > 0, level, jnp.nan)
