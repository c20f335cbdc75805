"""What a reinforcement learner must offer so that ``rollout`` can make a meta-learner of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.types import Array, EnvSpec, Metrics, Rollout, TaskWeights, Transition


class Agent(NamedTuple):
    """A learner that adapts to a task while it acts in it. Every function is batched over N tasks.

    Experience that A keeps, large as it is, is a field of the name ``replay``: a run that is stopped for
    having diverged goes back to its last good A in all but that.

    Attributes:
        init: (key) -> A, everything that learning changes.
        begin: (A, n, key) -> belief, what is believed of n tasks before their first episode.
        act: (A, belief, obs (N, D), key, greedy ()) -> (action (N, A), extras), extras a pytree
            (N, ...) that ``update`` finds in ``Rollout.extras``.
        observe: (A, belief, Transition) -> belief, after each step.
        adapt: (A, belief, (Transition, extras), key) -> belief, between episodes, from the whole
            episode with leaves (H, N, ...); None for agents that only observe.
        update: (A, Rollout, TaskWeights (N,), key, progress) -> (A, metrics); progress in [0, 1] is
            the share of the run done.
        tunable: options whose values are leaves of A, so that runs that differ in them can share a
            program.
        tune: (A, values by option name) -> A; None where nothing is tunable.
        inform: (A, belief, tasks (N, d)) -> belief, after ``begin``, for an agent that is told its tasks (an
            upper bound on what others can reach); None for those that must find out.
        exploring: how many of the first episodes of a test are not greedy: what they are for needs chance.
        acting: (A) -> A without what ``begin``, ``act``, ``observe`` and ``adapt`` do not need: fields left
            empty, nothing computed. It is what is kept of the best learner so far. None to keep all.
    """

    init: Callable[[Array], Any]
    begin: Callable[[Any, int, Array], Any]
    act: Callable[[Any, Any, Array, Array, Array], tuple[Array, Any]]
    observe: Callable[[Any, Any, Transition], Any]
    adapt: Callable[[Any, Any, tuple[Transition, Any], Array], Any] | None
    update: Callable[[Any, Rollout, TaskWeights, Array, Array], tuple[Any, Metrics]]
    tunable: tuple[str, ...] = ()
    tune: Callable[[Any, Mapping[str, Array]], Any] | None = None
    acting: Callable[[Any], Any] | None = None
    inform: Callable[[Any, Any, Array], Any] | None = None
    exploring: int = 0


_registry: Registry[Agent] = Registry("agent")
register = _registry.register
names = _registry.names


get = _registry.get


def make(name: str, spec: EnvSpec, num_tasks: int, config: Any = None) -> Agent:
    """Builds an agent by name.

    Args:
        name: a registered name.
        spec: what the agent sees of the environment, the protocol's flag included.
        num_tasks: N, tasks per meta-iteration.
        config: that agent's options; its defaults if None.

    Raises:
        UnknownNameError: for a name that is not registered.
    """
    constructor = get(name)
    options = options_class(constructor)
    if options is NoOptions:
        return constructor(spec, num_tasks)
    return constructor(spec, num_tasks, options() if config is None else config)
