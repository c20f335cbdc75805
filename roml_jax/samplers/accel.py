"""ACCEL: robust PLR whose buffer also grows by small edits of the tasks that were just replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.proposals import Proposal
from roml_jax.samplers import buffer as buffers
from roml_jax.samplers.base import TaskSampler, register, returns_of
from roml_jax.samplers.buffer import Buffer, ReplayConfig
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw, TaskWeights

NEW, REPLAYED, EDITED = 0, 1, 2  # kinds of batches
_DRAWS = 4096  # prior draws that the spread and the range of an unbounded u are taken from
_MARGIN = 1e-6  # from the ends of a bounded u, as in draws from the prior


@dataclass(frozen=True)
class AccelConfig(ReplayConfig):
    """Options of ACCEL."""

    replay: float = 0.9
    """Probability that an iteration replays tasks from the buffer rather than drawing them from the prior."""
    edits: int = 3
    """Number of dimensions of u that an edit changes; all of them if there are fewer."""
    step: float = 0.05
    """Standard deviation of an edit, as a share of the range of u (where the prior is not uniform, of the
    range of the uniform distribution with the prior's standard deviation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, "sampler", 1, "edits")
        checks.positive(self, "sampler", "step")


DEFAULTS = AccelConfig()


class AccelState(NamedTuple):
    """The buffer and the batch that was drawn last.

    Attributes:
        buffer: the scored tasks.
        parents: (C,) how often the last batch replayed each task of the buffer.
        kind: () whether the last batch was new, replayed or edited.
        step: (d,) standard deviation of an edit.
        low: (d,) least value of an edited u.
        high: (d,) greatest value of an edited u.
    """

    buffer: Buffer
    parents: Array
    kind: Array
    step: Array
    low: Array
    high: Array


def _init(family: TaskFamily, config: AccelConfig, key: Array) -> AccelState:
    buffer_key, prior_key = jax.random.split(key)
    proposal, held = family.proposal, buffers.empty(config, family.proposal, buffer_key)
    if proposal.uniform_prior:
        one = jnp.ones(proposal.dims, held.u.dtype)
        step, low, high = config.step * one, _MARGIN * one, (1 - _MARGIN) * one
    else:
        u = proposal.sample(proposal.phi0, prior_key, _DRAWS)
        step, low, high = config.step * math.sqrt(12) * u.std(axis=0), u.min(axis=0), u.max(axis=0)
    nobody = jnp.zeros(config.buffer, jnp.int32)
    return AccelState(held, nobody, jnp.full((), NEW, jnp.int32), step, low, high)


def _edited(state: AccelState, proposal: Proposal, u: Array, key: Array, edits: int) -> Array:
    """Children of tasks u (n, d): normal noise on ``edits`` random dimensions, kept in range.

    An index into a finite set has no neighbours; its edit is a draw from the prior.
    """
    where_key, noise_key = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(where_key, u.shape), axis=1)
    changes = jnp.argsort(order, axis=1) < edits
    child = u + state.step[None] * jax.random.normal(noise_key, u.shape, u.dtype)
    child = jnp.clip(child, state.low[None], state.high[None])
    if any(proposal.is_index):
        drawn = proposal.sample(proposal.phi0.astype(u.dtype), jax.random.fold_in(noise_key, 1), len(u))
        child = jnp.where(jnp.array(proposal.is_index), drawn, child)
    return jnp.where(changes, child, u)


@register("accel")
def accel(family: TaskFamily, alpha: float, config: AccelConfig = DEFAULTS) -> TaskSampler:
    """An iteration's tasks are all new, all replayed or, after a replay, all edits of the replayed ones.

    The policy trains on replayed tasks alone; new and edited ones are rolled out, scored and offered to the
    buffer. Source: Parker-Holder et al. 2022, Evolving Curricula with Regret-Based Environment Design.
    """
    proposal = family.proposal

    def sample(state: AccelState, key: Array, n: int) -> tuple[AccelState, TaskDraw]:
        which_key, old_key, new_key, edit_key = jax.random.split(key, 4)
        held = state.buffer
        place = buffers.replayed(config, held, old_key, n)
        parents = jnp.repeat(jnp.arange(held.score.size), state.parents, total_repeat_length=n)
        candidates = (  # in the order of NEW, REPLAYED and EDITED
            proposal.sample(proposal.phi0, new_key, n),
            held.u[place],
            _edited(state, proposal, held.u[parents], edit_key, config.edits),
        )
        again = buffers.is_ready(config, held) & jax.random.bernoulli(which_key, config.replay)
        kind = jnp.where(state.kind == REPLAYED, EDITED, jnp.where(again, REPLAYED, NEW))
        u = jax.lax.select_n(kind, *candidates)
        counted = jnp.zeros_like(state.parents).at[place].add(1)
        state = state._replace(parents=jnp.where(kind == REPLAYED, counted, 0), kind=kind)
        is_ref = jnp.broadcast_to(kind == NEW, (n,))
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), is_ref)

    def update(
        state: AccelState, draw: TaskDraw, feedback: Feedback | Array, key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[AccelState, Metrics]:  # fmt: skip
        del key, progress
        feedback = Feedback.of(feedback)
        state = state._replace(buffer=buffers.record(config, state.buffer, draw.u, feedback))
        metrics = buffers.metrics(state.buffer, draw, feedback.returns, alpha)
        dtype = feedback.returns.dtype
        shares = {
            "replayed_share": (state.kind == REPLAYED).astype(dtype),
            "edited_share": (state.kind == EDITED).astype(dtype),
        }
        return state, metrics | shares

    def weights(
        state: AccelState, draw: TaskDraw, feedback: Feedback | Array, progress: Array | float = 1.0
    ) -> TaskWeights:
        del draw, progress
        keep = jnp.full_like(returns_of(feedback), state.kind == REPLAYED)
        return TaskWeights(keep, keep)

    return TaskSampler(
        init=lambda key: _init(family, config, key),
        sample=sample,
        update=update,
        weights=weights,
        phi=lambda state: buffers.mean_task(config, state.buffer),
        needs=config.needs,
    )
