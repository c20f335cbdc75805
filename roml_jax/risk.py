"""Quantiles and the conditional value at risk: the only copies.

Everything here works on a fixed-size array of which only a masked part may count, so that the
same code serves traced risk levels, diverged tasks and vmapped seeds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from roml_jax.types import Array

_COMPARE_UP_TO = 256


def finite(x: Array) -> Array:
    """Infinities as the largest finite numbers, in the same order: differences stay numbers."""
    limit = jnp.finfo(x.dtype).max / 8
    return jnp.clip(x, -limit, limit)


def _lerp(low: Array, high: Array, t: Array) -> Array:
    """Interpolates so that equal ends give exactly that value: ties must stay ties."""
    return jnp.where(t < 0.5, low + (high - low) * t, high - (high - low) * (1 - t))


def order(*keys: Array) -> Array:
    """Indices (n,) that sort by the first key (n,), where it ties by the next, then by position.

    Short arrays compare all pairs: a third of the time of XLA's sort on a CPU. Keys must not be NaN.
    """
    position = jnp.arange(keys[0].shape[0])
    if position.size > _COMPARE_UP_TO:
        return jax.lax.sort((*keys, position), num_keys=len(keys))[-1]
    before = position < position[:, None]
    for key in reversed(keys):
        before = (key < key[:, None]) | ((key == key[:, None]) & before)
    return jnp.zeros_like(position).at[before.sum(axis=1)].set(position, unique_indices=True)


def _ascending(x: Array, *along: Array) -> tuple[Array, ...]:
    """Sorts x along its first axis, NaN last; returns it and arrays of its shape in the same order."""
    return jax.lax.sort((x, *along), dimension=0, num_keys=1)


def _latest(where: Array) -> Array:
    """For each position the last one up to it that counts, or the first that does."""
    position = jnp.arange(where.shape[0])
    return jax.lax.cummax(jnp.where(where, position, jnp.argmax(where)))


def quantile(x: Array, q: Array | float, where: Array | None = None, *, assume_sorted: bool = False) -> Array:
    """The q-quantile with linear interpolation, as ``numpy.percentile(x[where], 100 * q)``.

    Args:
        x: (n,) values.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.
        assume_sorted: whether x ascends already, NaN last.

    Returns:
        Scalar; +inf if nothing counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    if not assume_sorted:
        x, where = _ascending(x, where)
    counted = jnp.cumsum(where)
    rank = q * jnp.maximum(counted[-1] - 1, 0).astype(x.dtype)
    low = jnp.floor(rank).astype(counted.dtype)
    high = jnp.minimum(low + 1, jnp.maximum(counted[-1] - 1, 0))
    lower, upper = x[(counted <= low).sum()], x[(counted <= high).sum()]
    # rank may be whole with an infinite upper neighbour: inf * 0 is not 0
    value = jnp.where(rank == low, lower, _lerp(lower, upper, rank - low))
    return jnp.where(counted[-1] > 0, value, jnp.inf)


def underlying_level(q: Array | float, n: Array | int) -> Array:
    """Level in a sample of n whose quantile estimates the q-quantile of the source.

    The smallest and largest of n draws stand for the levels 1/(n+1) and n/(n+1), not 0 and 1.
    Source: RoML's CEM, ``alpha (n+1)/(n-1) - 1/(n-1)`` clipped to [0, 1].
    """
    steps = jnp.maximum(n - 1, 1)
    corrected = jnp.clip(q * (n + 1) / steps - 1 / steps, 0.0, 1.0)
    return jnp.where(jnp.asarray(n) > 1, corrected, jnp.asarray(q, corrected.dtype))


def weighted_quantile(
    x: Array, weights: Array, q: Array | float, where: Array | None = None, *, assume_sorted: bool = False
) -> Array:
    """The q-quantile of a weighted sample, linear between the weights' midpoints.

    Midpoints of the cumulated weights, rescaled so that the smallest value stands at 0 and the
    largest at 1 (RoML's CEM).

    Args:
        x: (n,) values.
        weights: (n,) non-negative.
        q: level in [0, 1].
        where: (n,) bool, which values count; all of them if None.
        assume_sorted: whether x ascends already, NaN last.

    Returns:
        Scalar; +inf if nothing counts.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    if not assume_sorted:
        x, where, weights = _ascending(x, where, weights)
    weights = jnp.where(where, weights, 0)
    # what does not count repeats its neighbour: a corner of the line that changes nothing
    latest = _latest(where)
    midpoint = (jnp.cumsum(weights) - 0.5 * weights)[latest]
    midpoint = midpoint - midpoint[0]
    total = midpoint[-1]
    level = jnp.where(total > 0, midpoint / jnp.where(total > 0, total, 1), 0)
    return jnp.where(where.any(), jnp.interp(q, level, x[latest]), jnp.inf)


def cvar(
    returns: Array, alpha: Array | float, where: Array | None = None, *, assume_sorted: bool = False
) -> Array:
    """Conditional value at risk: the mean over the lowest ceil(alpha * n) returns.

    Args:
        returns: (n, ...) the statistic runs over the first axis.
        alpha: risk level in (0, 1]; may be traced.
        where: (n, ...) bool, which returns count; all of them if None.
        assume_sorted: whether returns ascend already, NaN last.

    Returns:
        (...) the mean of the worst share, of at least one return. NaN if nothing counts, or if one
        that counts is NaN: a diverged task must not leave the tail unseen.
    """
    where = jnp.ones(returns.shape, bool) if where is None else where
    if not assume_sorted:
        returns, where = _ascending(returns, where)
    total = where.sum(axis=0)
    # float32 products such as 0.07 * 100 land just above the whole number they mean
    count = jnp.clip(jnp.ceil(jnp.asarray(alpha) * total * (1 - 1e-6)), 1, jnp.maximum(total, 1))
    in_tail = where & (jnp.cumsum(where, axis=0) <= count)
    worst = jnp.where(in_tail, returns, 0).sum(axis=0) / count
    known = (total > 0) & ~(where & jnp.isnan(returns)).any(axis=0)
    return jnp.where(known, worst, jnp.nan)


def masked_mean(x: Array, where: Array) -> Array:
    """Mean of x[where]; NaN if nothing counts."""
    return jnp.where(where, x, 0).sum() / where.sum()


def tail_level(mean: Array, returns: Array, where: Array, *, assume_sorted: bool = False) -> Array:
    """The level alpha at which CVaR_alpha of returns[where] equals ``mean``, linear between samples.

    Args:
        mean: () e.g. the mean return of tasks that a sampler chose.
        returns: (n,) of tasks from the prior.
        where: (n,) bool, which count.
        assume_sorted: whether returns ascend already, NaN last.

    Returns:
        () in [1 / count, 1]; NaN if nothing counts.
    """
    if not assume_sorted:
        returns, where = _ascending(returns, where)
    counted, latest = jnp.cumsum(where), _latest(where)
    running = jnp.cumsum(jnp.where(where, returns, 0))[latest] / jnp.maximum(counted[latest], 1)
    level = jnp.interp(mean, running, counted[latest] / jnp.maximum(counted[-1], 1))
    return jnp.where(counted[-1] > 0, level, jnp.nan)
