"""Sampling for learnability: half of the tasks are those on which the learner's results vary most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import Scoring, TaskSampler, by_origin, register, returns_of
from roml_jax.samplers.uniform import uniform
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw


@dataclass(frozen=True)
class SflConfig:
    """Options of sampling for learnability.

    The source scores 5,000 candidates at a time, in runs of thousands of millions of frames, and does not
    count these frames. Here they count, so the default is a pass of 1,280 rollouts.
    """

    candidates: int = 256
    """Tasks from the prior that a scoring pass scores."""
    rollouts: int = 5
    """Independent rollouts of each candidate."""
    every: int = 100
    """Iterations between two scoring passes; the first is before the first iteration."""
    top: int = 32
    """Number of candidates of the highest learnability that are trained on."""
    share: float = 0.5
    """Share of an iteration's tasks that come from these; the others come from the prior."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 2, "rollouts")
        checks.at_least(self, "sampler", 1, "candidates", "every", "top")
        checks.share(self, "sampler", "share")
        if self.top > self.candidates:
            raise ValueError(
                f"sampler.top ({self.top}) must not exceed sampler.candidates ({self.candidates})"
            )


DEFAULTS = SflConfig()


class SflState(NamedTuple):
    """The tasks of the highest learnability at the last scoring pass.

    Attributes:
        u: (T, d) in descending order of learnability; draws from the prior before the first pass.
        learnability: (T,) of these tasks; 0 before the first pass.
        count: () how many of them are trained on: T, or fewer if most candidates diverged.
        passes: () number of scoring passes so far.
    """

    u: Array
    learnability: Array
    count: Array
    passes: Array


def learnability(returns: Array) -> Array:
    """Generalised learnability (m,) of tasks, from the returns (m, R) of R rollouts of each.

    It is std(returns) / sqrt(R), times the normal density of the task's mean return whose mean and standard
    deviation are those of the mean returns of all tasks. Tasks with a return of NaN get -inf and do not
    count. Source: Monette et al. 2025 (NCC), whose code has the variance in place of the deviation.
    """
    valid = ~jnp.isnan(returns).any(axis=1)
    mean = jnp.where(valid, returns.mean(axis=1), 0.0)
    centre = risk.masked_mean(mean, valid)
    spread = jnp.sqrt(risk.masked_mean(jnp.square(mean - centre), valid))
    differ = spread > 0
    spread = jnp.where(differ, spread, 1.0)
    density = jnp.exp(-0.5 * jnp.square((mean - centre) / spread)) / (spread * math.sqrt(2 * math.pi))
    error = returns.std(axis=1) / math.sqrt(returns.shape[1])
    return jnp.where(valid, error * jnp.where(differ, density, 1.0), -jnp.inf)


def _scored(config: SflConfig, state: SflState, u: Array, feedback: Feedback) -> SflState:
    """The state after a scoring pass on candidates u (m, d); unchanged if all of them diverged."""
    returns = risk.finite(feedback.returns)
    if feedback.diverged is not None:
        returns = jnp.where(feedback.diverged, jnp.nan, returns)
    scores = learnability(returns.reshape(config.candidates, config.rollouts))
    best = risk.order(-scores)[: config.top]
    count = jnp.minimum((scores > -jnp.inf).sum(), config.top).astype(state.count.dtype)
    new = SflState(u[best], jnp.maximum(scores[best], 0.0), count, state.passes)
    new = jax.tree.map(lambda after, before: jnp.where(count > 0, after, before), new, state)
    return new._replace(passes=state.passes + 1)


@register("sfl")
def sfl(family: TaskFamily, alpha: float, config: SflConfig = DEFAULTS) -> TaskSampler:
    """Trains on the tasks of highest learnability of every scoring pass, and on tasks from the prior.

    Sources: Rutherford et al. 2024, No Regrets (SFL); Monette et al. 2025, whose generalised learnability
    needs no notion of success.
    """
    from_prior = uniform(family, alpha)

    def prior(key: Array, n: int) -> TaskDraw:
        return from_prior.sample((), key, n)[1]

    def init(key: Array) -> SflState:
        u, zero = prior(key, config.top).u, jnp.zeros((), jnp.int32)
        return SflState(u, jnp.zeros(config.top, u.dtype), zero, zero)

    def sample(state: SflState, key: Array, n: int) -> tuple[SflState, TaskDraw]:
        order_key, prior_key = jax.random.split(key)
        # without replacement, until each of the best has been taken once
        shuffled = jax.random.uniform(order_key, (config.top,)) + (jnp.arange(config.top) >= state.count)
        place = risk.order(shuffled)[jnp.arange(n) % jnp.maximum(state.count, 1)]
        count = round(config.share * n)
        if not count and config.share:
            raise ValueError(
                f"sampler.share={config.share:g} of num_tasks={n} is no task, so the scoring passes are for "
                "nothing: raise one of them"
            )
        taken = (jnp.arange(n) < count) & (state.count > 0)
        u = jnp.where(taken[:, None], state.u[place], prior(prior_key, n).u)
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), ~taken)

    def update(
        state: SflState, draw: TaskDraw, feedback: Feedback | Array, key: Array, progress: Array | float = 1.0
    ) -> tuple[SflState, Metrics]:
        del key, progress
        returns = returns_of(feedback)
        return state, by_origin(draw, returns, alpha) | {
            "learnability": state.learnability.sum() / jnp.maximum(state.count, 1),
            "passes": state.passes.astype(returns.dtype),
        }

    def scored(state: SflState, draw: TaskDraw, feedback: Feedback, key: Array) -> SflState:
        del key
        return _scored(config, state, draw.u, feedback)

    scoring = Scoring(
        propose=lambda state, key: (state, prior(key, config.candidates)),
        scored=scored,
        candidates=config.candidates,
        rollouts=config.rollouts,
        every=config.every,
    )
    return TaskSampler(init, sample, update, phi=lambda state: state.u.mean(axis=0), scoring=scoring)
