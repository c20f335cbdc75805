"""The best learners of a run so far, by mean and by CVaR on the validation tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import quickly
from roml_jax.types import Array


class Snapshot(NamedTuple):
    """The best learner of each seed by one score.

    Attributes:
        score: (R,) the best score so far, R seeds; -inf before the first evaluation.
        iteration: (R,) the iteration at which the score was reached.
        acting: the learner's acting parameters, leaves (R, ...), or (...) with one seed. They are the
            learner's state without the fields that acting does not need; see ``MetaLearner.acting``.
    """

    score: Array
    iteration: Array
    acting: Any


class Best(NamedTuple):
    """The best learners by mean return and by CVaR."""

    mean: Snapshot
    cvar: Snapshot


def start(acting: Any, num_seeds: int) -> Best:
    """The snapshots before the first evaluation.

    Args:
        acting: the acting parameters of the initial learner, or their shapes; both snapshots hold them.
        num_seeds: R.
    """
    one = Snapshot(jnp.full(num_seeds, -jnp.inf, jnp.float32), jnp.zeros(num_seeds, jnp.int32), acting)
    return Best(one, one)


def _better(kept: Snapshot, score: Array, iteration: Array, acting: Any) -> Snapshot:
    better = score > kept.score

    def choose(new: Array, old: Array) -> Array:
        if score.size == 1:  # with one seed, leaves have no seed axis
            return jnp.where(better[0], new, old)
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return Snapshot(
        jnp.where(better, score, kept.score),
        jnp.where(better, iteration, kept.iteration),
        jax.tree.map(choose, acting, kept.acting),
    )


@quickly.jit
def update(best: Best, iteration: Array, mean: Array, cvar: Array, acting: Any) -> Best:
    """Replaces the snapshots of the seeds whose score improved. On a tie the earlier learner is kept.

    Args:
        best: the snapshots so far.
        iteration: () the current iteration.
        mean: (R,) mean return of the current learners.
        cvar: (R,) CVaR of the current learners. NaN never replaces a snapshot.
        acting: acting parameters of the current learners.
    """
    return Best(_better(best.mean, mean, iteration, acting), _better(best.cvar, cvar, iteration, acting))
