"""Task samplers: which tasks a meta-learner trains on. They know tasks, never learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from roml_jax import cem as cem_lib
from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Metrics, TaskDraw


class TaskSampler(NamedTuple):
    """A way to choose training tasks.

    Attributes:
        init: (key) -> S.
        sample: (S, key, n) -> (S, TaskDraw) of n tasks.
        update: (S, draw, returns (n,), key, progress) -> (S, metrics); returns in the draw's order,
            progress in [0, 1] the share of the run done before this iteration.
        weights: (S, returns (n,), progress) -> (n,) ones, except for samplers that filter tasks
            after the fact: a task of weight 0 enters no advantage.
        phi: (S) -> (p,) the parameters of the current task distribution, for people to look at.
    """

    init: Callable[[Array], Any]
    sample: Callable[[Any, Array, int], tuple[Any, TaskDraw]]
    update: Callable[[Any, TaskDraw, Array, Array, Array], tuple[Any, Metrics]]
    weights: Callable[[Any, Array, Array], Array]
    phi: Callable[[Any], Array]


def _no_weights(state: Any, returns: Array, progress: Array) -> Array:
    del state, progress
    return jnp.ones_like(returns)


def uniform(family: TaskFamily, alpha: float) -> TaskSampler:
    """Tasks from the prior: the meta-learner as it was published."""
    del alpha
    proposal = family.proposal

    def init(key: Array) -> tuple[()]:
        del key
        return ()

    def sample(state: tuple[()], key: Array, n: int) -> tuple[tuple[()], TaskDraw]:
        u = proposal.sample(proposal.phi0, key, n)
        return state, TaskDraw(u, family.decode(u), jnp.zeros(n, u.dtype), jnp.ones(n, bool))

    def update(
        state: tuple[()], draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[tuple[()], Metrics]:
        del draw, returns, key, progress
        return state, {}

    return TaskSampler(init, sample, update, _no_weights, lambda state: proposal.phi0)


def cem(family: TaskFamily, alpha: float, config: cem_lib.CemConfig) -> TaskSampler:
    """RoML: the cross-entropy method moves the task distribution toward the lowest returns."""
    proposal = family.proposal

    def init(key: Array) -> cem_lib.CemState:
        return cem_lib.init(config, proposal, key, len(family.names))

    def sample(state: cem_lib.CemState, key: Array, n: int) -> tuple[cem_lib.CemState, TaskDraw]:
        state, u, log_w, is_ref = cem_lib.sample(config, proposal, state, key, n)
        return state, TaskDraw(u, family.decode(u), log_w, is_ref)

    def update(
        state: cem_lib.CemState, draw: TaskDraw, returns: Array, key: Array, progress: Array
    ) -> tuple[cem_lib.CemState, Metrics]:
        del progress
        drawn = (draw.u, draw.log_w, draw.is_ref)
        state, metrics = cem_lib.update(config, proposal, state, drawn, returns, alpha, key)
        return state, metrics | {"updates": state.batch.astype(returns.dtype)}

    return TaskSampler(init, sample, update, _no_weights, lambda state: state.phi)


_registry: Registry[TaskSampler] = Registry("sampler")
register = _registry.register
names = _registry.names
get = _registry.get


def make(name: str, family: TaskFamily, alpha: float, config: Any = None) -> TaskSampler:
    """Builds a sampler by name.

    Args:
        name: a registered name.
        family: the environment's tasks.
        alpha: risk level in (0, 1].
        config: that sampler's options; its defaults if None.

    Raises:
        UnknownNameError: for a name that is not registered.
        ValueError: for alpha outside (0, 1].
    """
    constructor = get(name)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    options = options_class(constructor)
    if options is NoOptions:
        return constructor(family, alpha)
    return constructor(family, alpha, options() if config is None else config)


register("uniform", uniform)
register("cem", cem)
