"""The naive alternative to the cross-entropy method: a fixed pool of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import TaskSampler, register
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics, TaskDraw


@dataclass(frozen=True)
class NaiveConfig:
    """The naive alternative to the cross-entropy method."""

    pool: int = 100
    """Tasks drawn from the prior once and kept."""
    batch_size: int = 128
    """Scored tasks between two choices of the hardest."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "pool", "batch_size")


DEFAULTS = NaiveConfig()


class NaiveState(NamedTuple):
    """The pool and what is known of it.

    Attributes:
        u: (P, d) the pool.
        score: (P,) each task's latest return, NaN before its first.
        hard: (P,) bool, the tasks now drawn from.
        drawn: how many of the pool's first walk have been handed out.
        scored: scores since the last choice.
    """

    u: Array
    score: Array
    hard: Array
    drawn: Array
    scored: Array


@register("naive")
def naive(family: TaskFamily, alpha: float, config: NaiveConfig = DEFAULTS) -> TaskSampler:
    """A fixed pool of prior tasks, of which the worst alpha by their latest returns are trained on.

    The pool is walked once in order; then tasks come uniformly, with replacement, from the worst. (The
    reference finds the worst but goes on drawing from the whole pool; here the choice has its effect.)
    """
    proposal = family.proposal
    num_hard = jnp.maximum(1, jnp.ceil(jnp.asarray(alpha) * config.pool * (1 - 1e-6)))

    def init(key: Array) -> NaiveState:
        u = proposal.sample(proposal.phi0, key, config.pool)
        nothing = jnp.zeros((), jnp.int32)
        unknown = jnp.full(config.pool, jnp.nan, u.dtype)
        return NaiveState(u, unknown, jnp.ones(config.pool, bool), nothing, nothing)

    def sample(state: NaiveState, key: Array, n: int) -> tuple[NaiveState, TaskDraw]:
        walk = state.drawn + jnp.arange(n)
        random = jax.random.categorical(key, jnp.where(state.hard, 0.0, -jnp.inf), shape=(n,))
        u = state.u[jnp.where(walk < config.pool, walk, random)]
        drawn = jnp.minimum(state.drawn + n, config.pool)
        return state._replace(drawn=drawn), TaskDraw(
            u, family.decode(u), jnp.zeros(n, u.dtype), jnp.zeros(n, bool)
        )

    def update(
        state: NaiveState, draw: TaskDraw, returns: Array, key: Array, progress: Array | float = 1.0
    ) -> tuple[NaiveState, Metrics]:
        del key, progress
        index = jnp.abs(draw.u[:, None] - state.u[None]).sum(axis=-1).argmin(axis=1)
        # a task met several times gets its mean; a diverged one keeps what it had
        counted = ~jnp.isnan(returns)
        met = jax.ops.segment_sum(counted.astype(returns.dtype), index, config.pool)
        total = jax.ops.segment_sum(jnp.where(counted, returns, 0), index, config.pool)
        score = jnp.where(met > 0, total / met, state.score)
        scored = state.scored + returns.shape[0]
        closes = scored >= config.batch_size
        known = ~jnp.isnan(score)
        rank = jnp.argsort(jnp.argsort(jnp.where(known, score, jnp.inf)))
        hard = jnp.where(closes & known.any(), known & (rank < num_hard), state.hard)
        metrics = {
            "ref_mean": risk.masked_mean(score, known),
            "ref_cvar": risk.cvar(score, alpha, known),
            "sample_mean": risk.masked_mean(returns, counted),
            "selected_share": hard.mean(dtype=score.dtype),
        }
        return NaiveState(state.u, score, hard, state.drawn, jnp.where(closes, 0, scored)), metrics

    def phi(state: NaiveState) -> Array:
        return (state.u * state.hard[:, None]).sum(axis=0) / state.hard.sum()

    return TaskSampler(init, sample, update, phi=phi, batch_size=config.batch_size)
