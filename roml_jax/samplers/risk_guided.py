"""What MPTS and PDTS share: tasks are chosen among candidates from the prior by a risk network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.proposals import Proposal
from roml_jax.samplers import risk_network
from roml_jax.samplers.base import TaskSampler, returns_of
from roml_jax.samplers.risk_network import RiskNetwork, RiskNetworkConfig, RiskState
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

Choose = Callable[[RiskState, Array, Array, int], Array]
"""(risk network's state, candidates x (m, d), key, n) -> indices (n,) of n different candidates."""

_PRIOR_DRAWS = 1024  # for the mean and std of a prior that is not uniform


@dataclass(frozen=True)
class RiskGuidedConfig:
    """Options that MPTS and PDTS share."""

    network: RiskNetworkConfig = field(default_factory=RiskNetworkConfig)
    warmup: float = 0.1
    """Share of the run whose tasks come from the prior. A sampler learns of the run's progress after each
    iteration, so the warm-up ends with the first iteration that begins at this share or later."""
    warmup_iterations: int | None = None
    """Number of iterations whose tasks come from the prior, instead of a share of the run; None for
    ``warmup``. The first iteration's always do."""

    def __post_init__(self) -> None:
        checks.share(self, "sampler", "warmup")
        checks.at_least(self, "sampler", 0, "warmup_iterations")


class RiskGuidedState(NamedTuple):
    """State of MPTS and PDTS.

    Attributes:
        network: the risk network's; it holds of the last batch what the next choice needs.
        center: (d,) mean of the prior.
        scale: (d,) std of the prior, in units of the std of U(0, 1).
        mean: (d,) mean u of the last batch; before the first, of the prior.
        updates: () number of batches so far.
        progress: () share of the run that was done before the last batch.
    """

    network: RiskState
    center: Array
    scale: Array
    mean: Array
    updates: Array
    progress: Array

    def coordinates(self, u: Array) -> Array:
        """What the network gets for tasks u (n, d): u scaled to the mean and std of U(0, 1).

        For a uniform prior this is u itself.
        """
        return (u - self.center[None]) / self.scale[None] + 0.5


def _moments(proposal: Proposal, key: Array) -> tuple[Array, Array]:
    """(mean (d,), std (d,) in units of U(0, 1)'s) of the prior."""
    dtype = proposal.phi0.dtype
    if proposal.uniform_prior:
        return jnp.full(proposal.dims, 0.5, dtype), jnp.ones(proposal.dims, dtype)
    drawn = proposal.sample(proposal.phi0, key, _PRIOR_DRAWS)
    std = drawn.std(axis=0) * 12**0.5
    return drawn.mean(axis=0), jnp.where(std > 0, std, 1.0)


def _learn(
    network: RiskNetwork, state: RiskGuidedState, draw: TaskDraw, returns: Array, key: Array
) -> tuple[RiskGuidedState, Metrics]:
    """The state after a batch, with the progress as it was."""
    counted = ~jnp.isnan(returns)
    x, losses = state.coordinates(draw.u), -risk.standardised(returns, counted)
    predicted = risk_network.decode(state.network.params, x, state.network.posterior.mean[None])[0]
    learned, error = network.update(state.network, x, losses, counted, key)
    metrics = {
        "sample_mean": risk.masked_mean(returns, counted),
        "prior_share": draw.is_ref.mean(dtype=returns.dtype),
        "correlation": (risk.standardised(predicted, counted) * losses).sum() / counted.sum(),
        "network_error": error,
    }
    return state._replace(network=learned, mean=draw.u.mean(axis=0), updates=state.updates + 1), metrics


def risk_guided(
    family: TaskFamily, config: RiskGuidedConfig, candidates: float, choose: Choose
) -> TaskSampler:
    """A sampler that draws candidates from the prior and lets a risk network choose among them.

    Args:
        family: the tasks.
        config: options.
        candidates: number of candidates per task, at least 1.
        choose: the choice.
    """
    proposal = family.proposal
    network = risk_network.make(config.network, proposal.dims, proposal.phi0.dtype)

    def init(key: Array) -> RiskGuidedState:
        network_key, prior_key = jax.random.split(key)
        center, scale = _moments(proposal, prior_key)
        zero = jnp.zeros((), jnp.int32)
        return RiskGuidedState(
            network.init(network_key), center, scale, jnp.array(center), zero, jnp.zeros((), center.dtype)
        )

    def warms_up(state: RiskGuidedState) -> Array:
        if config.warmup_iterations is not None:
            return state.updates < max(config.warmup_iterations, 1)
        return (state.updates < 1) | (state.progress < config.warmup)

    def sample(state: RiskGuidedState, key: Array, n: int) -> tuple[RiskGuidedState, TaskDraw]:
        candidates_key, choice_key = jax.random.split(key)
        u = proposal.sample(proposal.phi0, candidates_key, int(candidates * n))
        warm = warms_up(state)
        index = jax.lax.cond(
            warm,
            lambda: jnp.arange(n, dtype=jnp.int32),
            lambda: choose(state.network, state.coordinates(u), choice_key, n).astype(jnp.int32),
        )
        u = u[index]
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), jnp.full(n, warm))

    def update(
        state: RiskGuidedState, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[RiskGuidedState, Metrics]:  # fmt: skip
        state, metrics = _learn(network, state, draw, returns_of(feedback), key)
        return state._replace(progress=jnp.asarray(progress, state.progress.dtype)), metrics

    return TaskSampler(init, sample, update, phi=lambda state: state.mean, batch_size=1)
