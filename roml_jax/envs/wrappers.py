"""Environments around environments: what a robot's sensors, computer and network add to its simulation.

A ``Wrapper`` is an ``Env`` itself, so wrappers compose. It keeps its own memory in ``EnvState.carry`` and
leaves the other parts of the state to the environment inside, so that it can be rendered and evaluated as
that one. What only a critic sees (``EnvState.privileged``) stays that of the environment inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import jax
import jax.numpy as jnp

from roml_jax.envs.base import Env, EnvState, Told, choose
from roml_jax.envs.physics import EngineName
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, EnvSpec


class Layer(NamedTuple):
    """What ``EnvState.carry`` holds of a wrapper.

    Attributes:
        obs: (D,) the observation of the environment inside.
        inner: what the environment inside carries.
        own: the wrapper's memory.
    """

    obs: Array
    inner: Any
    own: Any


@dataclass(frozen=True, eq=False)
class Wrapper:
    """An environment around another one; without the methods below it changes nothing.

    Attributes that are not the wrapper's own are those of the environment inside (``physics``, ``render``).

    Attributes:
        env: the environment inside.
    """

    env: Env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":  # asked for while an object is copied
            raise AttributeError(name)
        return getattr(self.env, name)

    def on(self, engine: EngineName) -> Self:
        """The same on another physics engine, if the environment inside can change it."""
        return replace(self, env=cast(Any, self.env).on(engine))

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self.env.spec

    @property
    def family(self) -> TaskFamily:
        """The tasks and their prior."""
        return self.env.family

    def begin(self, key: Array, state: EnvState) -> Any:
        """The wrapper's memory at the start of an episode, from the state that the inner reset gives."""
        return ()

    def sent(self, own: Any, task: Array, action: Array) -> tuple[Array, Any]:
        """(action that the environment inside gets, memory)."""
        return action, own

    def seen(self, own: Any, task: Array, obs: Array, action: Array | None) -> tuple[Array, Any]:
        """(observation, memory) after a step with the policy's action, or after a reset (None)."""
        return obs, own

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts an episode of a task (d,)."""
        own_key, key = jax.random.split(key)
        state = self.env.reset(key, task)
        obs, own = self.seen(self.begin(own_key, state), task, state.obs, None)
        return state._replace(obs=obs, carry=Layer(state.obs, state.carry, own))

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One step. After the end of an episode, the observation and the memory stay as they are."""
        return self._step(state, action, action)

    def _step(self, state: EnvState, action: Array, told: Array) -> EnvState:
        """A step with an action that wrappers outside made of the policy's own, ``told``."""
        layer = state.carry
        sent, own = self.sent(layer.own, state.task, action)
        before, env = state._replace(obs=layer.obs, carry=layer.inner), self.env
        if isinstance(env, Wrapper) and type(env).step is Wrapper.step:
            after = env._step(before, sent, told)
        elif sent is not told and _is_told(env) and jnp.shape(told) == jnp.shape(sent):
            after = cast(Told, env).step_told(before, sent, told)
        else:
            after = env.step(before, sent)
        new = self.seen(own, state.task, after.obs, action)
        obs, own = choose(after.valid, new, (state.obs, layer.own))
        return after._replace(obs=obs, carry=Layer(after.obs, after.carry, own))


def _is_told(env: Env) -> bool:
    """Whether the environment inside takes the policy's own action, and no subclass has a step of its own."""

    def owner(name: str) -> type:
        return next(kind for kind in type(env).__mro__ if name in vars(kind))

    return not isinstance(env, Wrapper) and isinstance(env, Told) and owner("step") is owner("step_told")


def inside(env: Env, state: Any = None) -> tuple[Env, Any]:
    """The environment inside of all wrappers, and its state, given the outermost one's."""
    while isinstance(env, Wrapper):
        if state is not None:
            state = state._replace(obs=state.carry.obs, carry=state.carry.inner)
        env = env.env
    return env, state
