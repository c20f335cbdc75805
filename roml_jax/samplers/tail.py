"""CVaR-ML: prior tasks, of which only the worst teach the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import Schedule, TaskSampler, constant, falling, register
from roml_jax.samplers.uniform import uniform
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, TaskWeights


@dataclass(frozen=True)
class TailConfig:
    """CVaR-ML: tasks from the prior, of which only the worst teach the policy."""

    level: Literal["advantage", "loss"] = "advantage"
    """Where the others are left out: 'advantage', before advantages are normalised, so that they still
    enter with a constant (the reference); 'loss', altogether."""
    tasks_per_group: int = 1
    """Tasks whose returns are summed and filtered together; the reference filters by process, which
    meets two humanoid tasks per iteration."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 1, "tasks_per_group")
        checks.one_of(self, "sampler", "level", ("advantage", "loss"))


DEFAULTS = TailConfig()


def _tail(family: TaskFamily, schedule: Schedule, alpha: float, config: TailConfig) -> TaskSampler:
    def weights(state: tuple[()], returns: Array, progress: Array | float = 1.0) -> TaskWeights:
        del state
        if returns.shape[0] % config.tasks_per_group:
            raise ValueError(
                f"{returns.shape[0]} tasks per iteration do not divide into "
                f"sampler.tasks_per_group={config.tasks_per_group}"
            )
        by_group = risk.finite(returns).reshape(-1, config.tasks_per_group).sum(axis=1)
        level = schedule(jnp.asarray(progress, returns.dtype))
        known = ~jnp.isnan(by_group)
        kept = known & (by_group <= risk.quantile(by_group, level, known))
        keep = jnp.repeat(kept.astype(returns.dtype), config.tasks_per_group)
        return TaskWeights(keep, keep if config.level == "loss" else jnp.ones_like(keep))

    return uniform(family, alpha)._replace(weights=weights)


@register("tail")
def tail(family: TaskFamily, alpha: float, config: TailConfig = DEFAULTS) -> TaskSampler:
    """CVaR-ML: of each iteration's prior tasks, only those up to the alpha-quantile teach the policy."""
    return _tail(family, constant(alpha), alpha, config)


@register("tail_soft")
def tail_soft(family: TaskFamily, alpha: float, config: TailConfig = DEFAULTS) -> TaskSampler:
    """As ``tail``, with a risk level that falls from 1 to alpha over the first four fifths of the run."""
    return _tail(family, falling(alpha), alpha, config)
