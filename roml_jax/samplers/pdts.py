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

    half, dims_first, index = score / 2, x.T, jnp.arange(score.shape[0])

    def best(gain: Array) -> Array:
        # on a CPU XLA takes a fifth of the time of argmax for this
        return jnp.where(gain == gain.max(), index, score.shape[0]).min()

    def distance(chosen: Array) -> Array:
        """To a chosen candidate (m,); -inf for itself, so that it is not chosen again."""
        apart = dims_first - jax.lax.dynamic_slice_in_dim(dims_first, chosen, 1, axis=1)
        return jnp.where(index == chosen, -jnp.inf, jnp.sqrt(jnp.square(apart).sum(axis=0)))

    def step(nearest: Array, _: None) -> tuple[Array, Array]:
        chosen = best(half + diversity * nearest)
        return jnp.minimum(nearest, distance(chosen)), chosen

    first = best(half)
    _, others = jax.lax.scan(step, distance(first), length=n - 1)
    return jnp.concatenate([first[None], others])


@register("pdts")
def pdts(family: TaskFamily, alpha: float, config: PdtsConfig = DEFAULTS) -> TaskSampler:
    """PDTS: tasks of a large loss by one draw of the risk network, chosen apart from each other."""
    del alpha  # the share of hard tasks follows from the number of candidates

    def choose(state: RiskState, x: Array, key: Array, n: int) -> Array:
        predicted = risk_network.decode(state.params, x, risk_network.draw(state.posterior, key, 1))[0]
        return choose_apart(predicted, x, n, config.diversity)

    return risk_guided(family, config, config.candidates, choose)
