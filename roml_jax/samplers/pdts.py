"""PDTS: among many candidates from the prior, tasks of a large predicted loss that lie apart.

Source: Qu et al., "Fast and Robust: Task Sampling with Posterior and Diversity Synergies for Adaptive
Decision-Makers in Randomized Environments" (ICML 2025, arXiv 2504.19139).
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
class PdtsConfig(RiskGuidedConfig):
    """Options of PDTS."""

    candidates: float = 64
    """Candidates per task, at least 1."""
    diversity: float = 1.0
    """Weight of a candidate's distance to the nearest chosen task, in units of a uniform prior's range;
    published: 0.05, 1 or 8, by environment. With 0 the tasks of the largest predicted losses are chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, "sampler", 1, "candidates")
        checks.at_least(self, "sampler", 0, "diversity")


DEFAULTS = PdtsConfig()


def choose_apart(score: Array, x: Array, n: int, diversity: float) -> Array:
    """Greedy choice of n candidates, each the best by score / 2 + diversity * distance to the nearest chosen.

    The first is chosen by its score alone. Distances to the nearest are kept as a running minimum.

    Args:
        score: (m,) of the candidates, finite.
        x: (m, d) the candidates.
        n: how many to choose, at most m.
        diversity: weight of the Euclidean distance.

    Returns:
        Indices (n,), all different, in the order of choice.
    """
    if diversity == 0:
        return jax.lax.top_k(score, n)[1]

    def choose(left: Array, nearest: Array) -> tuple[Array, Array, Array]:
        """(what is left of the scores, distances to the nearest chosen) after a choice, and the choice."""
        best = jnp.argmax(left + diversity * nearest)
        apart = x - jax.lax.dynamic_slice_in_dim(x, best, 1)
        return left.at[best].set(-jnp.inf), jnp.sqrt(jnp.square(apart).sum(axis=1)), best

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        left, nearest = carry
        left, distance, best = choose(left, nearest)
        return (left, jnp.minimum(nearest, distance)), best

    left, distance, first = choose(score / 2, jnp.zeros_like(score))
    _, others = jax.lax.scan(step, (left, distance), length=n - 1)
    return jnp.concatenate([first[None], others])


@register("pdts")
def pdts(family: TaskFamily, alpha: float, config: PdtsConfig = DEFAULTS) -> TaskSampler:
    """PDTS: tasks of a large loss by one draw of the risk network, chosen apart from each other."""
    del alpha  # the share of hard tasks follows from the number of candidates

    def choose(state: RiskState, x: Array, key: Array, n: int) -> Array:
        predicted = risk_network.decode(state.params, x, risk_network.draw(state.posterior, key, 1))[0]
        return choose_apart(predicted, x, n, config.diversity)

    return risk_guided(family, config, config.candidates, choose)
