"""Quantiles and the conditional value at risk: the only copies.

Everything here works on a fixed-size array of which only a masked part may count, so that the
same code serves traced risk levels, diverged tasks and vmapped seeds.
"""

from __future__ import annotations

import jax.numpy as jnp

from roml_jax.types import Array


def finite(x: Array) -> Array:
    """Infinities as the largest finite numbers, in the same order: differences stay numbers."""
    limit = jnp.finfo(x.dtype).max / 8
    return jnp.clip(x, -limit, limit)


def _lerp(low: Array, high: Array, t: Array) -> Array:
    """Interpolates so that equal ends give exactly that value: ties must stay ties."""
    return jnp.where(t < 0.5, low + (high - low) * t, high - (high - low) * (1 - t))


def _interpolate_ranks(sorted_x: Array, rank: Array) -> Array:
    low = jnp.floor(rank).astype(jnp.int32)
    high = jnp.minimum(low + 1, sorted_x.shape[0] - 1)
    lower, upper = sorted_x[low], sorted_x[high]
    # rank may be whole with an infinite or masked upper neighbour: inf * 0 is not 0
    return jnp.where(rank == low, lower, _lerp(lower, upper, rank - low))


def quantile(x: Array, q: Array | float, where: Array | None = None) -> Array:
    """The q-quantile with linear interpolation, as ``numpy.percentile(x[where], 100 * q)``.

    Args:
        x: (n,) values.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.

    Returns:
        Scalar; +inf if nothing counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    count = where.sum()
    sorted_x = jnp.sort(jnp.where(where, x, jnp.inf))
    return _interpolate_ranks(sorted_x, q * jnp.maximum(count - 1, 0).astype(x.dtype))


def underlying_level(q: Array | float, n: Array | int) -> Array:
    """Level in a sample of n whose quantile estimates the q-quantile of the source.

    The smallest and largest of n draws stand for the levels 1/(n+1) and n/(n+1), not 0 and 1.
    Source: RoML's CEM, ``alpha (n+1)/(n-1) - 1/(n-1)`` clipped to [0, 1].
    """
    steps = jnp.maximum(n - 1, 1)
    corrected = jnp.clip(q * (n + 1) / steps - 1 / steps, 0.0, 1.0)
    return jnp.where(jnp.asarray(n) > 1, corrected, jnp.asarray(q, corrected.dtype))


def weighted_quantile(x: Array, weights: Array, q: Array | float, where: Array | None = None) -> Array:
    """The q-quantile of a weighted sample, linear between the weights' midpoints.

    Midpoints of the cumulated weights, rescaled so that the smallest value stands at 0 and the
    largest at 1 (RoML's CEM).

    Args:
        x: (n,) values.
        weights: (n,) non-negative.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.

    Returns:
        Scalar; +inf if nothing counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    order = jnp.argsort(jnp.where(where, x, jnp.inf), stable=True)
    x, weights, where = x[order], weights[order], where[order]
    weights = jnp.where(where, weights, 0)
    last = jnp.maximum(where.sum() - 1, 0)
    midpoint = jnp.cumsum(weights) - 0.5 * weights
    midpoint = midpoint - midpoint[0]
    total = midpoint[last]
    level = jnp.where(total > 0, midpoint / jnp.where(total > 0, total, 1), 0)
    # masked values lie behind the last one that counts and repeat it
    x = jnp.where(where, x, x[last])
    level = jnp.where(where, level, 1)
    value = jnp.interp(q, level, x)
    return jnp.where(where.any(), value, jnp.inf)


def cvar(returns: Array, alpha: Array | float, where: Array | None = None) -> Array:
    """Conditional value at risk: the mean over the lowest ceil(alpha * n) returns.

    Args:
        returns: (n, ...) the statistic runs over the first axis.
        alpha: risk level in (0, 1]; may be traced.
        where: (n, ...) bool, which returns count; all of them if None.

    Returns:
        (...) the mean of the worst share, of at least one return. NaN if nothing counts, or if one
        that counts is NaN: a diverged task must not leave the tail unseen.
    """
    where = jnp.ones(returns.shape, bool) if where is None else where
    total = where.sum(axis=0)
    # float32 products such as 0.07 * 100 land just above the whole number they mean
    count = jnp.clip(jnp.ceil(jnp.asarray(alpha) * total * (1 - 1e-6)), 1, jnp.maximum(total, 1))
    rank = jnp.arange(returns.shape[0]).reshape((-1,) + (1,) * (returns.ndim - 1))
    ordered = jnp.sort(jnp.where(where, returns, jnp.inf), axis=0)
    worst = jnp.where(rank < count, ordered, 0).sum(axis=0) / count
    known = (total > 0) & ~(where & jnp.isnan(returns)).any(axis=0)
    return jnp.where(known, worst, jnp.nan)


def masked_mean(x: Array, where: Array) -> Array:
    """Mean of x[where]; NaN if nothing counts."""
    return jnp.where(where, x, 0).sum() / where.sum()


def tail_level(mean: Array, returns: Array, where: Array) -> Array:
    """The level alpha at which CVaR_alpha of returns[where] equals ``mean``, linear between samples.

    Args:
        mean: () e.g. the mean return of tasks that a sampler chose.
        returns: (n,) of tasks from the prior.
        where: (n,) bool, which count.

    Returns:
        () in [1 / count, 1]; NaN if nothing counts.
    """
    count = where.sum()
    rank = jnp.arange(1, returns.shape[0] + 1)
    ordered = jnp.sort(jnp.where(where, returns, jnp.inf))
    running = jnp.cumsum(jnp.where(rank <= count, ordered, 0)) / rank
    running = jnp.where(rank <= count, running, jnp.inf)
    level = jnp.interp(mean, running, jnp.minimum(rank, count) / count)
    return jnp.where(count > 0, level, jnp.nan)
