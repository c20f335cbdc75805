"""RoML: samplers that move the task distribution toward the lowest returns by the cross-entropy method."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from roml_jax import cem as method
from roml_jax import proposals
from roml_jax.cem import CemConfig, CemState
from roml_jax.samplers import box
from roml_jax.samplers.base import Schedule, TaskSampler, constant, drawn_from, falling, register, returns_of
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

DEFAULTS = CemConfig()
_ROUNDING = 1e-6  # of a quantile, by way of the task that has it


def cross_entropy(
    family: TaskFamily, proposal: proposals.Proposal, schedule: Schedule, config: CemConfig
) -> TaskSampler:
    """The cross-entropy method as a sampler.

    Args:
        family: the tasks.
        proposal: the distributions over u; its prior is the family's.
        schedule: the risk level.
        config: options.

    Raises:
        ValueError: for ``ref_mode="valid"``.
    """
    if config.ref_mode == "valid" and config.threshold is None and not config.optimise:
        raise ValueError(
            "sampler.ref_mode=valid needs scores passed to cem.set_reference, which a training run never "
            "does; use train or train_ref"
        )

    def init(key: Array) -> CemState:
        return method.init(config, proposal, key)

    def sample(state: CemState, key: Array, n: int) -> tuple[CemState, TaskDraw]:
        state, draw = method.sample(config, proposal, state, key, n)
        return state, draw._replace(task=family.decode(draw.u))

    def update(
        state: CemState, draw: TaskDraw, feedback: Feedback | Array, key: Array, progress: Array | float = 1.0
    ) -> tuple[CemState, Metrics]:
        returns = returns_of(feedback)
        alpha = schedule(jnp.asarray(progress, returns.dtype))
        state, metrics = method.update(config, proposal, state, draw, returns, key, alpha)
        return state, metrics._asdict() | {"updates": state.batch.astype(returns.dtype), "alpha": alpha}

    return TaskSampler(
        init, sample, update, phi=lambda state: state.phi, batch_size=config.batch_size,
        drawn=drawn_from(family, proposal),
    )  # fmt: skip


@register("cem")
def cem(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """RoML: moves the task distribution toward the lowest returns by the cross-entropy method."""
    return cross_entropy(family, family.proposal, constant(alpha), config)


@register("cem_soft")
def cem_soft(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """As ``cem``, with a risk level that falls linearly from 1 to alpha over the first 80 % of the run."""
    return cross_entropy(family, family.proposal, falling(alpha), config)


def _top(prior: proposals.Proposal, quantiles: proposals.UnitBox, alpha: float) -> proposals.Proposal:
    """The prior (of one dimension) on its quantiles in [1 - 2 (1 - phi), 1].

    ``fit`` ignores the scores: it returns 1 - alpha / 2, the prior's top alpha.
    """
    rounding = 0.0 if prior.uniform_prior else _ROUNDING

    def start(phi: Array) -> Array:
        return jnp.clip(1 - 2 * (1 - phi[0]), 0.0, 1 - box.MARGIN)

    def sample(phi: Array, key: Array, n: int) -> Array:
        v = jax.random.uniform(key, (n, 1), phi.dtype, minval=start(phi))
        return quantiles.to_u(box.inside(v))

    def log_prob(phi: Array, u: Array) -> Array:
        a = start(phi)
        share = jnp.where(quantiles.from_u(u)[:, 0] >= a - rounding, -jnp.log(1 - a), -jnp.inf)
        return share if prior.uniform_prior else share + prior.log_prob(prior.phi0.astype(u.dtype), u)

    def fit(u: Array, weights: Array) -> Array:
        del weights
        return jnp.full(1, 1 - alpha / 2, u.dtype)

    half, one = jnp.full(1, 0.5), jnp.ones(1)
    return proposals.Proposal(
        half, sample, log_prob, fit, half, one, 1, uniform_prior=prior.uniform_prior, box=quantiles
    )


@register("oracle")
def oracle(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """Moves to the top alpha of the prior, where tasks are known to be hardest.

    Reference tasks are still drawn from the whole prior.

    Raises:
        ValueError: for a family of more than one dimension, a finite set of tasks, or tasks that are not
            known to be hardest at the top of their range.
    """
    quantiles = family.proposal.box
    if quantiles is None or family.proposal.dims != 1:
        raise ValueError(
            "sampler=oracle needs one task dimension, and not a finite set of tasks; this family has "
            f"{', '.join(family.names)}: use sampler=cem"
        )
    if family.hardest != "top":
        raise ValueError(
            "sampler=oracle needs tasks that are known to be hardest at the top of their range "
            f"(hardest='top'), which {family.names[0]} does not set; use sampler=cem"
        )
    return cross_entropy(family, _top(family.proposal, quantiles, alpha), constant(alpha), config)
