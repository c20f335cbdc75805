"""A naive alternative to the cross-entropy method: training on the worst tasks of a fixed pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import TaskSampler, register, returns_of
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw


@dataclass(frozen=True)
class NaiveConfig:
    """Options of the naive sampler."""

    pool: int = 100
    """Number of tasks in the pool, drawn from the prior once."""
    batch_size: int = 128
    """Scored tasks between two selections of the worst."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "pool", "batch_size")


DEFAULTS = NaiveConfig()


class NaiveState(NamedTuple):
    """The pool and its scores.

    Attributes:
        u: (P, d) the pool.
        score: (P,) each task's latest return, NaN before its first.
        hard: (P,) bool, the tasks that are currently drawn.
        drawn: () tasks drawn in the first pass over the pool, at most P.
        scored: () number of scores since the last selection.
    """

    u: Array
    score: Array
    hard: Array
    drawn: Array
    scored: Array


@register("naive")
def naive(family: TaskFamily, alpha: float, config: NaiveConfig = DEFAULTS) -> TaskSampler:
    """Trains on the worst alpha of a fixed pool of prior tasks, by their latest returns.

    The first pass draws the pool in order. After it, tasks are drawn uniformly, with replacement, from the
    worst ones. (The reference selects the worst tasks but continues to draw from the whole pool.)
    """
    proposal = family.proposal
    num_hard = jnp.maximum(1, jnp.ceil(jnp.asarray(alpha) * config.pool * (1 - 1e-6)))

    def init(key: Array) -> NaiveState:
        u = proposal.sample(proposal.phi0, key, config.pool)
        zero = jnp.zeros((), jnp.int32)
        unknown = jnp.full(config.pool, jnp.nan, u.dtype)
        return NaiveState(u, unknown, jnp.ones(config.pool, bool), zero, zero)

    def sample(state: NaiveState, key: Array, n: int) -> tuple[NaiveState, TaskDraw]:
        walk = state.drawn + jnp.arange(n)
        random = jax.random.categorical(key, jnp.where(state.hard, 0.0, -jnp.inf), shape=(n,))
        u = state.u[jnp.where(walk < config.pool, walk, random)]
        drawn = jnp.minimum(state.drawn + n, config.pool)
        return state._replace(drawn=drawn), TaskDraw(
            u, family.decode(u), jnp.zeros(n, u.dtype), jnp.zeros(n, bool)
        )

    def update(
        state: NaiveState,
        draw: TaskDraw,
        feedback: Feedback | Array,
        key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[NaiveState, Metrics]:
        del key, progress
        returns = returns_of(feedback)
        index = jnp.abs(draw.u[:, None] - state.u[None]).sum(axis=-1).argmin(axis=1)
        # a task drawn several times gets its mean return; a diverged task keeps its previous score
        counted = ~jnp.isnan(returns)
        met = jax.ops.segment_sum(counted.astype(returns.dtype), index, config.pool)
        total = jax.ops.segment_sum(jnp.where(counted, returns, 0), index, config.pool)
        if proposal.is_finite:  # the pool has copies; index is that of a task's first
            first = (state.u[:, None] == state.u[None]).all(axis=-1).argmax(axis=1)
            met, total = met[first], total[first]
        score = jnp.where(met > 0, total / met, state.score)
        scored = state.scored + returns.shape[0]
        closes = scored >= config.batch_size
        has_score = ~jnp.isnan(score)
        rank = jnp.argsort(jnp.argsort(jnp.where(has_score, score, jnp.inf)))
        hard = jnp.where(closes & has_score.any(), has_score & (rank < num_hard), state.hard)
        metrics = {
            "ref_mean": risk.masked_mean(score, has_score),
            "ref_cvar": risk.cvar(score, alpha, has_score),
            "sample_mean": risk.masked_mean(returns, counted),
            "selected_share": hard.mean(dtype=score.dtype),
        }
        return NaiveState(state.u, score, hard, state.drawn, jnp.where(closes, 0, scored)), metrics

    def phi(state: NaiveState) -> Array:
        return (state.u * state.hard[:, None]).sum(axis=0) / state.hard.sum()

    return TaskSampler(init, sample, update, phi=phi, batch_size=config.batch_size)
