"""MPTS: among candidates from the prior, half of the tasks are those of the largest predicted risk.

Source: Wang et al., "Model Predictive Task Sampling for Efficient and Robust Adaptation" (2025, arXiv
2501.11039).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.samplers import risk_network
from roml_jax.samplers.base import TaskSampler, register
from roml_jax.samplers.risk_guided import RiskGuidedConfig, risk_guided
from roml_jax.samplers.risk_network import RiskState
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array


@dataclass(frozen=True)
class MptsConfig(RiskGuidedConfig):
    """Options of MPTS."""

    candidates: float = 1.5
    """Candidates per task, at least 1 (published: 1.5 in meta-RL, 2.5 to 25 in domain randomisation)."""
    draws: int = 50
    """Draws of the latent that a candidate's mean and std of the predicted loss are taken over."""
    mean_weight: float = 1.0
    """Weight of the mean of the predicted loss in a candidate's score."""
    std_weight: float = 5.0
    """Weight of the std of the predicted loss in a candidate's score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, "sampler", 1, "candidates")
        checks.at_least(self, "sampler", 2, "draws")
        checks.at_least(self, "sampler", 0, "mean_weight", "std_weight")


DEFAULTS = MptsConfig()


def best_and_others(score: Array, n: int) -> Array:
    """Indices (n,) of the n // 2 largest scores (m,), then of the first candidates that are left.

    Candidates come in random order, so that the second half is a random choice from what is left.
    """
    _, best = jax.lax.top_k(score, n // 2)
    is_left = jnp.ones(score.shape, bool).at[best].set(False)
    return jnp.concatenate([best, jnp.nonzero(is_left, size=n - n // 2)[0]])


@register("mpts")
def mpts(family: TaskFamily, alpha: float, config: MptsConfig = DEFAULTS) -> TaskSampler:
    """MPTS: half of the tasks by predicted mean and spread of the loss, the other half at random."""
    del alpha  # the share of hard tasks follows from the number of candidates

    def choose(state: RiskState, x: Array, key: Array, n: int) -> Array:
        if n < 2:
            raise ValueError(
                "sampler=mpts chooses half of an iteration's tasks, so num_tasks must be at least 2"
            )
        z = risk_network.draw(state.posterior, key, config.draws)
        predicted = risk_network.decode(state.params, x, z)
        spread = predicted.std(axis=0, ddof=1)
        return best_and_others(config.mean_weight * predicted.mean(axis=0) + config.std_weight * spread, n)

    return risk_guided(family, config, config.candidates, choose)
