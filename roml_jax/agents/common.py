"""What learners share: options that are leaves, frame counter, conditional updates, parameters as vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from roml_jax.registry import leaves
from roml_jax.types import Array, Metrics, Rollout

_MANY_FRAMES = 2**30  # upper limit of the frame counter, which only gates learning and must not overflow

State = TypeVar("State")
Ravel = Callable[[Any], tuple[Any, Callable[[Any], Any]]]
"""Parameters -> (the same as few vectors, the function back); such as ``ravel_pytree``."""


def init_rates(config: Any) -> dict[str, Array]:
    """The options that are leaves of the state, by dotted name."""
    return {name: jnp.asarray(value, float) for name, value in leaves(config).items()}


def count_frames(frames: Array, rollout: Rollout) -> Array:
    """Number of frames after a rollout, limited to 2^30."""
    return jnp.minimum(frames + rollout.reward.size, _MANY_FRAMES)


def when(
    condition: Array, update: Callable[[], tuple[State, Metrics]], state: State
) -> tuple[State, Metrics]:
    """Runs an update if ``condition`` holds; otherwise returns the state unchanged and NaN metrics."""
    update = jax.jit(update)  # jitted so that jax.eval_shape and the branch share one trace

    def skip() -> tuple[State, Metrics]:
        _, metrics = jax.eval_shape(update)
        return state, jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), metrics)

    return jax.lax.cond(condition, update, skip)


class Vectors(NamedTuple):
    """Parameters and the state of their optimiser as few vectors, for the gradient steps of an update.

    An optimiser works leaf by leaf: its operations are a kernel for every leaf, and the compiler takes its
    time for each. On a vector they are one.

    Attributes:
        params: the vectors.
        opt_state: the optimiser's state with vectors in place of what is shaped like the parameters.
        ravel: parameters, or their gradients -> vectors.
        params_of: vectors -> parameters.
        opt_state_of: an optimiser's state with vectors -> the state as it is stored.
    """

    params: Any
    opt_state: Any
    ravel: Callable[[Any], Any]
    params_of: Callable[[Any], Any]
    opt_state_of: Callable[[Any], Any]


def as_vectors(params: Any, opt_state: Any, ravel: Ravel = ravel_pytree) -> Vectors:
    """The parameters and the state of their optimiser as vectors.

    Args:
        params: the parameters.
        opt_state: the state of an optimiser of these parameters.
        ravel: by default, all parameters become one vector.
    """
    structure, shapes = jax.tree.structure(params), list(map(jnp.shape, jax.tree.leaves(params)))

    def is_like_params(part: Any) -> bool:
        same = jax.tree.structure(part) == structure
        return same and list(map(jnp.shape, jax.tree.leaves(part))) == shapes

    def stored(vectors: Any) -> Any:
        return jax.tree.map(
            lambda old, new: params_of(new) if is_like_params(old) else new,
            opt_state, vectors, is_leaf=is_like_params,
        )  # fmt: skip

    vectors, params_of = ravel(params)
    state = jax.tree.map(lambda x: ravel(x)[0] if is_like_params(x) else x, opt_state, is_leaf=is_like_params)
    return Vectors(vectors, state, lambda tree: ravel(tree)[0], params_of, stored)
