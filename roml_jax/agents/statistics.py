"""Running mean and std of arrays (Welford's algorithm on batches).

The same numbers as ``brax.training.acme.running_statistics``, whose import takes two thirds of a second
because it imports MJX.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import struct

from roml_jax.types import Array

STD_RANGE = (1e-6, 1e6)
"""Smallest and largest std."""


@struct.dataclass
class Count:
    """A count in two uint32 numbers, since JAX has no 64-bit integers by default: hi 2^32 + lo."""

    hi: Array
    lo: Array

    def __add__(self, more: Array) -> Count:
        """The count after ``more`` () int32 further samples."""
        lo = self.lo + more.astype(jnp.uint32)
        return Count(self.hi + (lo < self.lo).astype(jnp.uint32), lo)

    def as_float(self) -> Array:
        """The count as float32."""
        return self.hi.astype(jnp.float32) * jnp.float32(2.0**32) + self.lo.astype(jnp.float32)


@struct.dataclass
class Running:
    """The statistics after a number of samples (...).

    Attributes:
        mean: (...).
        std: (...).
        count: number of samples.
        summed_variance: (...) sum of squared deviations.
        std_eps: () added to the variance.
    """

    mean: Array
    std: Array
    count: Count
    summed_variance: Array
    std_eps: Any


def init(sample: Array, std_eps: float) -> Running:
    """Statistics of no samples, shaped like ``sample``: mean 0, std 1."""
    zeros, none = jnp.zeros(sample.shape), jnp.zeros((), jnp.uint32)
    return Running(zeros, jnp.ones(sample.shape), Count(none, none), zeros, std_eps)


def update(stats: Running, batch: Array, weights: Array) -> Running:
    """Statistics updated with a batch (B, ...), each sample counted ``weights`` (B,) times."""
    count = stats.count + weights.sum().astype(jnp.int32)
    total = count.as_float()
    apart = (batch - stats.mean) * weights.reshape(-1, *[1] * (batch.ndim - 1))
    mean = stats.mean + apart.sum(axis=0) / total
    variance = stats.summed_variance + (apart * (batch - mean)).sum(axis=0)
    # a sum of rounded terms may be below 0
    std = jnp.sqrt(jnp.maximum(variance, 0) / total + stats.std_eps)
    std = jnp.clip(std, *STD_RANGE)
    return replace(stats, mean=mean, std=std, count=count, summed_variance=variance)


def normalise(x: Array, stats: Running) -> Array:
    """(x - mean) / std."""
    return (x - stats.mean) / stats.std
