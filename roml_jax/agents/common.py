"""What learners share: options that are leaves of the state, the frame counter, conditional updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from roml_jax.registry import leaves
from roml_jax.types import Array, Metrics, Rollout, Table

_MANY_FRAMES = 2**30  # upper limit of the frame counter, which only gates learning and must not overflow

State = TypeVar("State")


def init_rates(config: Any) -> dict[str, Array]:
    """The options that are leaves of the state, by dotted name."""
    return {name: jnp.asarray(value, float) for name, value in leaves(config).items()}


def count_frames(frames: Array, rollout: Rollout) -> Array:
    """Number of frames after a rollout, limited to 2^30."""
    return jnp.minimum(frames + rollout.reward.size, _MANY_FRAMES)


def averaged(metrics: Table) -> Metrics:
    """Means over the steps of a loop, whose results are tables of metrics."""
    return dict(jax.tree.map(lambda values: values.mean(axis=0), metrics))


def if_weighed(weight: Array, after: State, before: State) -> State:
    """What a gradient step made, or what was before it if every sample's weight is 0.

    Without a gradient, Adam would still move the parameters along its running mean.
    """
    weighs = (weight > 0).any()
    return jax.tree.map(lambda new, old: jnp.where(weighs, new, old), after, before)


def when(
    condition: Array, update: Callable[[], tuple[State, Metrics]], state: State
) -> tuple[State, Metrics]:
    """Runs an update if ``condition`` holds; otherwise returns the state unchanged and NaN metrics."""
    update = jax.jit(update)  # jitted so that jax.eval_shape and the branch share one trace

    def skip() -> tuple[State, Metrics]:
        _, metrics = jax.eval_shape(update)
        return state, jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), metrics)

    return jax.lax.cond(condition, update, skip)
