"""CVaR-ML: tasks from the prior; only the worst of an iteration train the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import Schedule, TaskSampler, constant, falling, register, returns_of
from roml_jax.samplers.uniform import uniform
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, TaskDraw, TaskWeights


@dataclass(frozen=True)
class TailConfig:
    """Options of CVaR-ML."""

    level: Literal["advantage", "loss"] = "advantage"
    """Where the other tasks are filtered out: 'advantage', their advantages are 0 before normalisation, so
    they still add a constant (the reference); 'loss', they are left out entirely."""
    tasks_per_group: int = 1
    """Tasks whose returns are summed and filtered as one; the reference filters by process, and each
    process runs two humanoid tasks per iteration."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "tasks_per_group")
        checks.one_of(self, "sampler", "level", ("advantage", "loss"))


DEFAULTS = TailConfig()


def _tail(family: TaskFamily, schedule: Schedule, alpha: float, config: TailConfig) -> TaskSampler:
    def weights(
        state: tuple[()], draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        del state, draw
        returns = returns_of(feedback)
        if returns.shape[0] % config.tasks_per_group:
            raise ValueError(
                f"{returns.shape[0]} tasks per iteration do not divide into groups of "
                f"sampler.tasks_per_group={config.tasks_per_group}"
            )
        by_group = risk.finite(returns).reshape(-1, config.tasks_per_group).sum(axis=1)
        level = schedule(jnp.asarray(progress, returns.dtype))
        valid = ~jnp.isnan(by_group)
        is_worst = valid & (by_group <= risk.quantile(by_group, level, valid))
        keep = jnp.repeat(is_worst.astype(returns.dtype), config.tasks_per_group)
        return TaskWeights(keep, keep if config.level == "loss" else jnp.ones_like(keep))

    return uniform(family, alpha)._replace(weights=weights)


@register("tail")
def tail(family: TaskFamily, alpha: float, config: TailConfig = DEFAULTS) -> TaskSampler:
    """CVaR-ML: tasks from the prior; only those up to the iteration's alpha-quantile train the policy."""
    return _tail(family, constant(alpha), alpha, config)


@register("tail_soft")
def tail_soft(family: TaskFamily, alpha: float, config: TailConfig = DEFAULTS) -> TaskSampler:
    """As ``tail``, with a risk level that falls linearly from 1 to alpha over the first 80 % of the run."""
    return _tail(family, falling(alpha), alpha, config)
