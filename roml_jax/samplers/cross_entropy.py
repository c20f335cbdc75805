"""RoML: samplers that move the task distribution toward the lowest returns by the cross-entropy method."""

from __future__ import annotations

import jax.numpy as jnp

from roml_jax import cem as method
from roml_jax import proposals
from roml_jax.cem import CemConfig, CemState
from roml_jax.samplers.base import Schedule, TaskSampler, constant, drawn_from, falling, register, returns_of
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw

DEFAULTS = CemConfig()


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


@register("oracle")
def oracle(family: TaskFamily, alpha: float, config: CemConfig = DEFAULTS) -> TaskSampler:
    """Moves to the top alpha of the task's range, where tasks are known to be hardest.

    Reference tasks are still drawn from the prior.

    Raises:
        ValueError: for a family of more than one dimension, a prior that is not uniform in u, or tasks
            that are not known to be hardest at the top of their range.
    """
    if not (family.proposal.uniform_prior and family.proposal.dims == 1):
        raise ValueError(
            "sampler=oracle needs one task dimension whose prior is uniform (or log-uniform) on a range, "
            f"not {', '.join(family.names)}; use sampler=cem"
        )
    if family.hardest != "top":
        raise ValueError(
            "sampler=oracle needs tasks that are known to be hardest at the top of their range "
            f"(hardest='top'), which {family.names[0]} does not set; use sampler=cem"
        )
    return cross_entropy(family, proposals.top_of_unit_interval(alpha), constant(alpha), config)
