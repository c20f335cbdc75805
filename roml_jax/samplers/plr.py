"""Prioritised level replay: tasks that are worth another visit are replayed from a buffer."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from roml_jax.samplers import buffer as buffers
from roml_jax.samplers.base import TaskSampler, register, returns_of
from roml_jax.samplers.buffer import Buffer, ReplayConfig
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw, TaskWeights


@dataclass(frozen=True)
class PlrConfig(ReplayConfig):
    """Options of prioritised level replay."""

    robust: bool = False
    """Robust PLR: new tasks are only scored; the policy trains on replayed tasks alone."""


DEFAULTS = PlrConfig()


@register("plr")
def plr(family: TaskFamily, alpha: float, config: PlrConfig = DEFAULTS) -> TaskSampler:
    """Each task is replayed from a buffer of scored tasks or, otherwise, drawn from the prior.

    Sources: Jiang et al. 2021, Prioritized Level Replay; Jiang et al. 2021, Replay-Guided Adversarial
    Environment Design (robust PLR and the positive value loss).
    """
    proposal = family.proposal

    def sample(state: Buffer, key: Array, n: int) -> tuple[Buffer, TaskDraw]:
        which_key, old_key, new_key = jax.random.split(key, 3)
        new = proposal.sample(proposal.phi0, new_key, n)
        old = state.u[buffers.replayed(config, state, old_key, n)]
        again = buffers.is_ready(config, state) & jax.random.bernoulli(which_key, config.replay, (n,))
        u = jnp.where(again[:, None], old, new)
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), ~again)

    def update(
        state: Buffer, draw: TaskDraw, feedback: Feedback | Array, key: Array, progress: Array | float = 1.0
    ) -> tuple[Buffer, Metrics]:
        del key, progress
        feedback = Feedback.of(feedback)
        state = buffers.record(config, state, draw.u, feedback)
        return state, buffers.metrics(state, draw, feedback.returns, alpha)

    def weights(
        state: Buffer, draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        del state, progress
        learned = ~draw.is_ref | (not config.robust)
        keep = learned.astype(returns_of(feedback).dtype)
        return TaskWeights(keep, keep)

    return TaskSampler(
        init=lambda key: buffers.empty(config, proposal, key),
        sample=sample,
        update=update,
        weights=weights,
        phi=lambda state: buffers.mean_task(config, state),
        needs=config.needs,
    )
