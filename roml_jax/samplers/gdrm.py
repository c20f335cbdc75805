"""GDRM: tasks from the prior, weighted in the policy's update by a softmax of their losses.

Source: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts" (ICLR 2020), in the form for
tasks without groups of Wang et al., "Model Predictive Task Sampling" (2025, arXiv 2501.11039).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers.base import TaskSampler, register, returns_of
from roml_jax.samplers.uniform import uniform
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw, TaskWeights


@dataclass(frozen=True)
class GdrmConfig:
    """Options of GDRM."""

    eta: float = 1e-3
    """Inverse temperature of the softmax over minus the returns (published: 0.001 in meta-RL, 0.01 in domain
    randomisation). With 0 all tasks weigh the same."""
    standardise: bool = False
    """Subtract the mean of the iteration's returns and divide by their std, so that ``eta`` means the same in
    every environment (then take 1, for instance)."""

    def __post_init__(self) -> None:
        checks.at_least(self, "sampler", 0, "eta")


DEFAULTS = GdrmConfig()


def softmax_weights(returns: Array, config: GdrmConfig) -> Array:
    """Weights (n,) for returns (n,): 0 for NaN, mean 1 over the others, larger for lower returns."""
    counted = ~jnp.isnan(returns)
    if config.standardise:
        score = risk.standardised(returns, counted)
    else:
        score = risk.finite(jnp.where(counted, returns, 0.0))
    # a largest exponent of 0 also where eta times a return would overflow
    apart = score - jnp.where(counted, score, jnp.inf).min()
    share = jnp.where(counted, jnp.exp(-config.eta * apart), 0.0)
    return share * counted.sum() / jnp.maximum(share.sum(), 1.0)


@register("gdrm")
def gdrm(family: TaskFamily, alpha: float, config: GdrmConfig = DEFAULTS) -> TaskSampler:
    """GDRM: tasks from the prior; in the policy's update those of low returns weigh more."""
    prior = uniform(family, alpha)

    def update(
        state: tuple[()], draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[tuple[()], Metrics]:  # fmt: skip
        state, metrics = prior.update(state, draw, feedback, key, progress)
        weight = softmax_weights(returns_of(feedback), config)
        largest = weight.max() / jnp.maximum(weight.sum(), 1.0)
        return state, metrics | {"largest_weight": largest}

    def weights(
        state: tuple[()], draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        del state, draw, progress
        returns = returns_of(feedback)
        return TaskWeights((~jnp.isnan(returns)).astype(returns.dtype), softmax_weights(returns, config))

    return prior._replace(update=update, weights=weights)
