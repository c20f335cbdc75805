"""The best learners of a run so far, by mean and by CVaR on the validation tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.types import Array


class Snapshot(NamedTuple):
    """A learner that was kept, per run.

    Attributes:
        score: (R,) what it was chosen by; -inf before the first.
        iteration: (R,) when it was that good.
        acting: what acts of the learner, leaves (R, ...), or without that axis where there is one run.
    """

    score: Array
    iteration: Array
    acting: Any


class Best(NamedTuple):
    """By mean return and by CVaR."""

    mean: Snapshot
    cvar: Snapshot


def start(acting: Any, num_seeds: int) -> Best:
    """Nothing was scored yet: the learner at the start, or its shapes, in the place of both."""
    one = Snapshot(jnp.full(num_seeds, -jnp.inf, jnp.float32), jnp.zeros(num_seeds, jnp.int32), acting)
    return Best(one, one)


def _better(kept: Snapshot, score: Array, iteration: Array, acting: Any) -> Snapshot:
    better = score > kept.score

    def choose(new: Array, old: Array) -> Array:
        if score.size == 1:  # a single run's leaves have no axis of runs
            return jnp.where(better[0], new, old)
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return Snapshot(
        jnp.where(better, score, kept.score),
        jnp.where(better, iteration, kept.iteration),
        jax.tree.map(choose, acting, kept.acting),
    )


@jax.jit
def update(best: Best, iteration: Array, mean: Array, cvar: Array, acting: Any) -> Best:
    """Keeps a learner where it is better; the earlier one of equals.

    Args:
        best: so far.
        iteration: () of the learner.
        mean: (R,) its mean return.
        cvar: (R,) its CVaR; NaN is never better.
        acting: what acts of it.
    """
    return Best(_better(best.mean, mean, iteration, acting), _better(best.cvar, cvar, iteration, acting))
