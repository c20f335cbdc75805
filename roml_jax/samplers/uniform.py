"""A sampler that draws every task from the prior."""

from __future__ import annotations

import jax.numpy as jnp

from roml_jax import risk
from roml_jax.samplers.base import TaskSampler, drawn_from, register, returns_of
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw


@register("uniform")
def uniform(family: TaskFamily, alpha: float) -> TaskSampler:
    """Draws every task from the prior, as the published meta-learners do."""
    proposal = family.proposal

    def sample(state: tuple[()], key: Array, n: int) -> tuple[tuple[()], TaskDraw]:
        u = proposal.sample(proposal.phi0, key, n)
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), jnp.ones(n, bool))

    def update(
        state: tuple[()],
        draw: TaskDraw,
        feedback: Feedback | Array,
        key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[tuple[()], Metrics]:
        del draw, key, progress
        returns = returns_of(feedback)
        valid = ~jnp.isnan(returns)
        return state, {
            "ref_mean": risk.masked_mean(returns, valid),
            "ref_cvar": risk.cvar(returns, alpha, valid),
        }

    return TaskSampler(
        lambda key: (), sample, update, phi=lambda state: proposal.phi0, drawn=drawn_from(family, proposal)
    )
