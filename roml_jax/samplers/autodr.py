"""AutoDR: a box of tasks, each end of which moves with the returns of tasks at that end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, risk
from roml_jax.samplers import box
from roml_jax.samplers.base import TaskSampler, register
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Feedback, Metrics, TaskDraw


@dataclass(frozen=True)
class AutodrConfig:
    """Options of the autodr sampler."""

    success: float | None = None
    """Mean return at an end of the box from which that end moves outward, in the sum over a task's episodes;
    required. To find one, train with the sampler 'uniform', take the return per episode that half of its
    tasks reach, and multiply it by the number of episodes."""
    failure: float | None = None
    """Mean return at an end of the box up to which that end moves inward; half of ``success`` by default, and
    required where ``success`` is not positive."""
    batch_size: int = 20
    """Returns of tasks at an end of the box between two decisions about that end."""
    delta: float = 0.008
    """Length of a move, as a share of the dimension's range (published: 0.008 to 0.017)."""
    end_share: float = 0.5
    """Share of tasks with one dimension at an end of the box."""

    def __post_init__(self) -> None:
        checks.finite(self, "sampler", "success", "failure")
        checks.at_least(self, "sampler", 1, "batch_size")
        checks.share(self, "sampler", "delta", zero=False)
        checks.share(self, "sampler", "end_share", zero=False)


DEFAULTS = AutodrConfig()


class AutodrState(NamedTuple):
    """The box and the returns at its ends.

    Attributes:
        ends: (2, d) lower and upper ends, in the unit box.
        total: (2, d) sum of the returns in an end's buffer.
        count: (2, d) number of returns in it.
        reached: () bool, whether an iteration's mean return has reached ``success``.
        updates: () number of moves of ends.
        key: () decided which of the latest draws are at an end.
    """

    ends: Array
    total: Array
    count: Array
    reached: Array
    updates: Array
    key: Array


def _thresholds(config: AutodrConfig) -> tuple[float, float]:
    """Returns (failure, success)."""
    success = box.threshold(
        "autodr", "success", config.success, "the mean return at an end of the box from which it widens"
    )
    if config.failure is None and success <= 0:
        raise ValueError(
            f"sampler=autodr needs sampler.failure, the mean return at an end of the box up to which it "
            f"narrows: its default, half of sampler.success, is for positive returns, and success={success:g}"
        )
    failure = success / 2 if config.failure is None else config.failure
    if failure >= success:
        raise ValueError(f"sampler.failure must be below sampler.success={success:g}, got {failure:g}")
    return failure, success


def moved(config: AutodrConfig, ends: Array, mean: Array, full: Array) -> Array:
    """The ends (2, d) after a decision about each end with a full buffer.

    Args:
        config: options, with thresholds.
        ends: (2, d) before.
        mean: (2, d) mean returns of the buffers.
        full: (2, d) bool.
    """
    failure, success = _thresholds(config)
    wide, narrow = full & (mean >= success), full & (mean <= failure)
    step = config.delta * (wide.astype(ends.dtype) - narrow)
    low = jnp.clip(ends[0] - step[0], 0, ends[1])
    high = jnp.clip(ends[1] + step[1], low, 1)
    return jnp.stack([low, high])


def _at_ends(config: AutodrConfig, key: Array, n: int, dims: int) -> Array:
    """At which end each draw of a call is, (n, 2, d) bool; all False for draws inside the box."""
    share_key, place_key = jax.random.split(key)
    at_end = jax.random.bernoulli(share_key, config.end_share, (n,))
    place = jax.random.randint(place_key, (n,), 0, 2 * dims)
    chosen = at_end[:, None] & (place[:, None] == jnp.arange(2 * dims)[None])
    return chosen.reshape(n, 2, dims)


def _update(
    config: AutodrConfig, state: AutodrState, returns: Array, dims: int
) -> tuple[AutodrState, Metrics]:
    """Adds the returns of the latest draws to the buffers of their ends, and decides about full ones."""
    valid = ~jnp.isnan(returns)
    reached = state.reached | (risk.masked_mean(returns, valid) >= _thresholds(config)[1])
    counted = _at_ends(config, state.key, returns.shape[0], dims) & valid[:, None, None] & reached
    total = state.total + jnp.where(counted, returns[:, None, None], 0).sum(axis=0)
    count = state.count + counted.sum(axis=0, dtype=jnp.int32)
    full = count >= config.batch_size
    ends = moved(config, state.ends, total / jnp.maximum(count, 1), full)
    updates = state.updates + (ends != state.ends).sum(dtype=jnp.int32)
    after = AutodrState(
        ends, jnp.where(full, 0, total), jnp.where(full, 0, count), reached, updates, state.key
    )
    return after, {
        "width": (ends[1] - ends[0]).mean(),
        "updates": updates.astype(returns.dtype),
    }


@register("autodr")
def autodr(family: TaskFamily, alpha: float, config: AutodrConfig = DEFAULTS) -> TaskSampler:
    """A box that widens where the tasks at its end succeed and narrows where they fail.

    The box starts as a point at the middle of every dimension (of the prior's quantiles). Tasks are uniform
    in it; a share of them has one random dimension at one of its ends. An end moves once its buffer holds
    ``batch_size`` returns, by their mean; the buffer is then emptied. Buffers stay empty until an iteration's
    mean return first reaches ``success``. Draws have no density, so log_w is 0. The risk level is not used.
    Source: "Solving Rubik's Cube with a Robot Hand" (arXiv 1910.07113).

    Raises:
        ValueError: without thresholds, or for a family whose prior has no quantiles.
    """
    del alpha
    _thresholds(config)
    unit, dims = box.unit_box(family, "autodr"), family.proposal.dims
    dtype = family.proposal.phi0.dtype

    def init(key: Array) -> AutodrState:
        zeros = jnp.zeros((2, dims), dtype)
        return AutodrState(
            ends=jnp.full((2, dims), 0.5, dtype), total=zeros, count=zeros.astype(jnp.int32),
            reached=jnp.zeros((), bool), updates=jnp.zeros((), jnp.int32), key=key,
        )  # fmt: skip

    def draw(ends: Array, key: Array, n: int) -> tuple[Array, Array]:
        inner_key, key = jax.random.split(key)
        low, high = ends[:1], ends[1:]
        v = low + (high - low) * jax.random.uniform(inner_key, (n, dims), dtype)
        at = _at_ends(config, key, n, dims)
        v = jnp.where(at[:, 0], low, jnp.where(at[:, 1], high, v))
        return unit.to_u(box.inside(v)), key

    def sample(state: AutodrState, key: Array, n: int) -> tuple[AutodrState, TaskDraw]:
        u, key = draw(state.ends, key, n)
        return state._replace(key=key), TaskDraw(u, family.decode(u), jnp.zeros(n, dtype), jnp.zeros(n, bool))

    def update(
        state: AutodrState,
        draw: TaskDraw,
        feedback: Feedback | Array,
        key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[AutodrState, Metrics]:
        del key, progress
        feedback = Feedback.of(feedback)
        returns = told = feedback.returns
        if feedback.diverged is not None:  # its return is the iteration's worst, which may be a good one
            returns = jnp.where(feedback.diverged, jnp.minimum(told, _thresholds(config)[0]), told)
        after, metrics = _update(config, state, returns, dims)
        return after, metrics | {"sample_mean": risk.masked_mean(told, ~jnp.isnan(told))}

    def drawn(phi: Array, key: Array, n: int) -> Array:
        return family.decode(draw(phi.reshape(2, dims), key, n)[0])

    return TaskSampler(
        init, sample, update, phi=lambda state: state.ends.reshape(-1), batch_size=config.batch_size,
        drawn=drawn,
    )  # fmt: skip
