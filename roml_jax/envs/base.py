"""The environment interface (pure, unbatched functions of a key, a task and a state) and its registry."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.errors import unknown
from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, EnvSpec

Parts = Mapping[str, Callable[[Any], Array]]
"""Named parts of an observation, in order: functions (view) -> (k,)."""


class EnvState(NamedTuple):
    """One environment, between two steps.

    Attributes:
        obs: (D,) observation.
        reward: () reward of the last step; 0 after a reset.
        done: () bool, whether the episode has ended before its horizon.
        valid: () bool, whether the last step counts; False after an early end.
        key: randomness of the later steps.
        task: (d,) the task, as decoded by the family.
        physics: the simulator's state.
        model: the model leaves that the task edits, prepared once at the reset.
        diverged: () bool, whether the simulation has blown up in this episode; from then on its steps are
            not valid.
        terms: the reward terms by name, scalars; empty if the reward has no terms.
        carry: what else the episode carries: of the environment and of what is wrapped around it.
        privileged: (P,) what only a critic sees; None if ``EnvSpec.privileged_slices`` is empty.
    """

    obs: Array
    reward: Array
    done: Array
    valid: Array
    key: Array
    task: Array
    physics: Any
    model: Mapping[str, Array]
    diverged: Array
    terms: Mapping[str, Array]
    carry: Any = ()
    privileged: Array | None = None

    @classmethod
    def start(
        cls, obs: Array, key: Array, task: Array, physics: Any, model: Mapping[str, Array] | None = None,
        privileged: Array | None = None,
    ) -> EnvState:  # fmt: skip
        """The state right after a reset."""
        return cls(
            obs=obs,
            reward=jnp.zeros((), obs.dtype),
            done=jnp.zeros((), bool),
            valid=jnp.ones((), bool),
            key=key,
            task=task,
            physics=physics,
            model=model or {},
            diverged=jnp.zeros((), bool),
            terms={},
            privileged=privileged,
        )


class Env(Protocol):
    """An environment: every function is pure and unbatched; callers vmap them.

    An environment may also have ``render(task (d,), states) -> images``: an image (height, width, 3), uint8,
    of each state of an episode. ``python -m roml_jax.render`` then shows its policies.

    An environment does not count steps: the protocol determines an episode's length. ``reset`` with the same
    task starts the next episode of that task.
    """

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        ...

    @property
    def family(self) -> TaskFamily:
        """The tasks and their prior."""
        ...

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts an episode of a task (d,)."""
        ...

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One step; a discrete action is an integer (), a continuous one (A,)."""
        ...


@runtime_checkable
class Told(Env, Protocol):
    """An environment that is told the policy's own action where wrappers change or delay it."""

    def step_told(self, state: EnvState, action: Array, told: Array) -> EnvState:
        """One step with an action (A,) that wrappers made of the policy's own, ``told`` (A,)."""
        ...


class Rendered(Env, Protocol):
    """An environment that draws its episodes."""

    def render(self, task: np.ndarray, states: Sequence[EnvState]) -> Iterable[np.ndarray]:
        """An image (height, width, 3), uint8, of each state of an episode of a task (d,)."""
        ...


def simulation(physics: Any) -> Any:
    """The simulation's state in ``EnvState.physics``, which brax and Playground have inside of their own."""
    for part in ("pipeline_state", "data"):
        physics = getattr(physics, part, physics)
    return physics


BLOWN_UP = 1e4
"""A simulation with a larger position or velocity has diverged."""


def choose(live: Array, new: Any, old: Any) -> Any:
    """The tree ``new`` where ``live`` () holds, with the types of ``old``; elsewhere ``old``."""

    def one(new: Array, old: Array) -> Array:
        chosen = jnp.where(live, new, old)
        return chosen if jnp.issubdtype(old.dtype, jax.dtypes.prng_key) else chosen.astype(old.dtype)

    return jax.tree.map(one, new, old)


def part_slices(parts: Callable[..., Mapping[str, Array]], *args: Any) -> dict[str, slice]:
    """Slices of the named parts (k,) in an observation, in the order of ``parts``.

    Args:
        parts: (*args) -> parts by name; only traced.
        args: its arguments.
    """
    names: list[str] = []

    def in_order(*args: Any) -> list[Array]:
        by_name = parts(*args)
        names[:] = by_name  # stored here, since JAX sorts the keys of a returned dictionary
        return list(by_name.values())

    sizes = [shape.shape[0] for shape in jax.eval_shape(in_order, *args)]
    ends = itertools.accumulate(sizes)
    return {name: slice(end - size, end) for name, size, end in zip(names, sizes, ends, strict=True)}


def split_parts(observation: Parts, privileged: Parts | Sequence[str]) -> tuple[Parts, Parts]:
    """What the policy sees, and what only a critic sees.

    Args:
        observation: named parts.
        privileged: further named parts, or names of parts of ``observation``.

    Raises:
        ValueError: for a name that is given twice or does not exist, or if the policy would see nothing; one
            line.
    """
    if isinstance(privileged, str):
        raise ValueError("privileged is a tuple of names, such as ('friction',), or a dict of functions")
    if isinstance(privileged, Mapping):
        for name in privileged:
            if name in observation:
                raise ValueError(f"privileged: {name!r} is a part of the observation; choose another name")
        return observation, privileged
    for name in privileged:
        if name not in observation:
            raise ValueError(f"privileged: {unknown('part of the observation', name, observation)}")
    seen = {name: part for name, part in observation.items() if name not in privileged}
    if not seen:
        raise ValueError("privileged names every part of the observation: the policy would see nothing")
    return seen, {name: observation[name] for name in privileged}


def all_finite(*arrays: Array | None) -> Array:
    """Whether all numbers of the arrays are finite, () bool; None counts as finite."""
    return functools.reduce(operator.and_, (jnp.isfinite(x).all() for x in arrays if x is not None))


_registry: Registry[Env] = Registry("env")
register = _registry.register
names = _registry.names
get = _registry.get


def from_options(name: str, options: Any) -> Env:
    """Builds an environment from its options.

    If the constructor is a dataclass, the options are the environment; a function gets them as ``config``.
    """
    constructor = get(name)
    kind = options_class(constructor)
    if kind is constructor:
        return options
    return constructor() if kind is NoOptions else constructor(config=options)


def make(name: str, **options: Any) -> Env:
    """Builds an environment by name.

    Args:
        name: a registered name.
        **options: fields of that environment's options.

    Raises:
        UnknownNameError: for a name that is not registered; the message lists the valid ones.
        TypeError: for an option that the environment does not have.
    """
    return from_options(name, options_class(get(name))(**options))
