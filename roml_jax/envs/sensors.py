"""Noise, latency and history: environments around any environment, which compose.

    env = envs.noise(env, std={"velocity": 0.1}, bias={"position": 0.02})
    env = envs.delay(env, action="latency_ms", unit="ms")  # a dimension of the environment's tasks
    env = envs.history(env, 3)

The task dimensions are those of the environment inside; a dimension without edits serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.envs import amounts
from roml_jax.envs.amounts import Amount
from roml_jax.envs.base import Env, EnvState
from roml_jax.envs.wrappers import Wrapper
from roml_jax.errors import suggestion, unknown
from roml_jax.types import Array, Continuous, EnvSpec

Level = Amount | Mapping[str, Amount | Sequence[float]]
"""A level of all parts of an observation, or levels by part; parts that are left out have 0."""
Unit = Literal["steps", "s", "ms"]


class NoiseMemory(NamedTuple):
    """Memory of ``Noisy``: its key, and the bias (D,) of the episode."""

    key: Array
    bias: Array


@dataclass(frozen=True, eq=False)
class Noisy(Wrapper):
    """An environment whose observations have an error; see ``noise``."""

    std: Callable[[Array], Array]
    bias: Callable[[Array], Array]

    def begin(self, key: Array, state: EnvState) -> NoiseMemory:
        """Draws the episode's bias."""
        key, bias_key = jax.random.split(key)
        return NoiseMemory(key, self.bias(state.task) * _normal(bias_key, state.obs))

    def seen(
        self, own: NoiseMemory, task: Array, obs: Array, action: Array | None
    ) -> tuple[Array, NoiseMemory]:
        """The observation with bias and noise."""
        key, now = jax.random.split(own.key)
        return obs + own.bias + self.std(task) * _normal(now, obs), own._replace(key=key)


def _normal(key: Array, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)


def noise(env: Env, std: Level = 0.0, bias: Level = 0.0) -> Noisy:
    """An environment whose observations are measured with an error.

    The reward and the end of an episode are those of the true state.

    Args:
        env: any.
        std: standard deviation of normal noise that is drawn at every step. One level for all parts of the
            observation, or a dict by part. A level is a number, the name of a task dimension, or, in a dict,
            a number for each entry of the part.
        bias: standard deviation of an error that is drawn once per episode, likewise.

    Raises:
        ValueError: for an unknown part or dimension, or a negative level; one line.
    """
    if std == 0.0 and bias == 0.0:
        raise ValueError("noise: give std, bias or both; without, it would change nothing")
    return Noisy(env, _levels(env, std, "noise: std"), _levels(env, bias, "noise: bias"))


def _levels(env: Env, given: Level, what: str) -> Callable[[Array], Array]:
    """(task (d,)) -> the levels of all numbers of the observation (D,)."""
    spec, family = env.spec, env.family
    fixed, named = np.zeros(spec.obs_size, np.float32), []
    by_part = given if isinstance(given, Mapping) else dict.fromkeys(spec.obs_slices, given)
    for name, level in by_part.items():
        if name not in spec.obs_slices:
            raise ValueError(f"{what}: {unknown('part of the observation', name, spec.obs_slices)}")
        part = spec.obs_slices[name]
        if not isinstance(level, Sequence | np.ndarray) or isinstance(level, str):
            amount = amounts.resolve(family, level, what)
            if isinstance(level, str):
                named.append((part, amount.of))
            else:
                fixed[part] = level
            continue
        values = np.asarray(level, np.float32)
        if values.shape != (part.stop - part.start,) or not (values >= 0).all():
            size = part.stop - part.start
            raise ValueError(f"{what} of {name!r} must be {size} numbers of at least 0, got {level!r}")
        fixed[part] = values

    def levels(task: Array) -> Array:
        values = jnp.asarray(fixed)
        for part, of in named:
            values = values.at[part].set(of(task))
        return values

    return levels


class DelayMemory(NamedTuple):
    """Memory of ``Delayed``: the last actions (La, A) and observations (Lo, D), the newest first."""

    actions: Array
    observations: Array


@dataclass(frozen=True, eq=False)
class Delayed(Wrapper):
    """An environment with latency; see ``delay``. Delays are (task (d,)) -> steps, int, () or (D,)."""

    action: Callable[[Array], Array]
    observation: Callable[[Array], Array]
    longest: tuple[int, int]

    def begin(self, key: Array, state: EnvState) -> DelayMemory:
        """No action yet, and the first observation throughout."""
        space = self.env.spec.action
        of_actions, of_observations = self.longest
        size = space.size if isinstance(space, Continuous) else 0
        return DelayMemory(
            jnp.zeros((of_actions, size), state.obs.dtype), jnp.stack([state.obs] * (of_observations + 1))
        )

    def sent(self, own: DelayMemory, task: Array, action: Array) -> tuple[Array, DelayMemory]:
        """The action of ``delay`` steps ago."""
        if not self.longest[0]:
            return action, own
        all_actions = jnp.concatenate([jnp.asarray(action, own.actions.dtype)[None], own.actions])
        return all_actions[self.action(task)], own._replace(actions=all_actions[:-1])

    def seen(
        self, own: DelayMemory, task: Array, obs: Array, action: Array | None
    ) -> tuple[Array, DelayMemory]:
        """The observation of ``delay`` steps ago."""
        if not self.longest[1]:
            return obs, own
        observations = jnp.concatenate([obs[None], own.observations[:-1]])
        steps = self.observation(task)
        late = observations[steps, jnp.arange(obs.size)] if steps.ndim else observations[steps]
        return late, own._replace(observations=observations)


def delay(
    env: Env, action: Amount = 0, observation: Amount | Mapping[str, Amount] = 0, unit: Unit = "steps"
) -> Delayed:
    """An environment whose actions or observations arrive late.

    Before the first action has arrived, the environment gets the action 0. Before an observation is as old
    as the delay, the policy sees the first one. Delays are rounded to control steps. A delay of an actuator
    in physics steps is MuJoCo's own: ``delay`` and ``nsample`` in the MJCF.

    Args:
        env: any; with a delay of actions, one with continuous actions.
        action: latency of actions, or the name of a task dimension.
        observation: latency of observations, likewise; or a dict by part, where parts that are left out are
            not late, such as commands and the last action, which the robot's computer knows.
        unit: "steps" are control steps; "s" and "ms" need an environment that knows its control step.

    Raises:
        ValueError: for an unknown dimension or unit, or a delay that is negative or never as long as half a
            step; one line.
    """
    if unit not in get_args(Unit):
        near = suggestion(str(unit), get_args(Unit))
        raise ValueError(f"delay: unit must be one of {', '.join(get_args(Unit))}, got {unit!r}{near}")
    per_step = 1.0
    if unit != "steps":
        per_step = getattr(env, "dt", None)
        if per_step is None:
            raise ValueError(f"delay: {env.spec.name} has no control step in seconds (dt); use unit='steps'")
        per_step = float(per_step) * (1000.0 if unit == "ms" else 1.0)
    parts = (
        _whole(env, action, per_step, "delay: action"), _of_observation(env, observation, per_step)
    )  # fmt: skip
    longest = parts[0][1], parts[1][1]
    if not any(longest):
        raise ValueError(
            f"delay: a delay below half a control step changes nothing (a step is {per_step:g} {unit})"
        )
    if longest[0] and not isinstance(env.spec.action, Continuous):
        raise ValueError(f"delay: actions of {env.spec.name} are discrete, so there is none before the first")
    return Delayed(env, parts[0][0], parts[1][0], longest)


def _of_observation(
    env: Env, given: Amount | Mapping[str, Amount], per_step: float
) -> tuple[Callable[[Array], Array], int]:
    """((task) -> the delay in whole steps, () or of each number of the observation (D,); the longest one)."""
    spec, what, parts = env.spec, "delay: observation", []
    if not isinstance(given, Mapping):
        return _whole(env, given, per_step, what)
    for name, amount in given.items():
        if name not in spec.obs_slices:
            raise ValueError(f"{what}: {unknown('part of the observation', name, spec.obs_slices)}")
        parts.append((spec.obs_slices[name], *_whole(env, amount, per_step, what)))

    def steps(task: Array) -> Array:
        delays = jnp.zeros(spec.obs_size, jnp.int32)
        for part, of, _ in parts:
            delays = delays.at[part].set(of(task))
        return delays

    return steps, max((longest for *_, longest in parts), default=0)


def _whole(env: Env, given: Amount, per_step: float, what: str) -> tuple[Callable[[Array], Array], int]:
    """((task) -> a delay in whole steps, the longest one)."""
    amount = amounts.resolve(env.family, given, what)
    if not math.isfinite(amount.high):
        raise ValueError(f"{what}: the range of the task dimension has no upper end, so no memory is enough")
    longest = round(amount.high / per_step)

    def steps(task: Array) -> Array:
        return jnp.clip(jnp.round(amount.of(task) / per_step), 0, longest).astype(jnp.int32)

    return steps, longest


@dataclass(frozen=True, eq=False)
class Stacked(Wrapper):
    """An environment that shows its last observations; see ``history``."""

    steps: int
    actions: bool

    @cached_property
    def spec(self) -> EnvSpec:
        """Sizes and names: the parts of now, then those of one step before, ``NAME[-1]``, and so on."""
        inner = self.env.spec
        d, slices = inner.obs_size, dict(inner.obs_slices)
        for k in range(1, self.steps):
            for name, part in inner.obs_slices.items():
                slices[f"{name}[-{k}]"] = slice(part.start + k * d, part.stop + k * d)
        for k in range(self.steps * self.actions):
            start = self.steps * d + k * inner.action.size
            slices[f"action[-{k + 1}]"] = slice(start, start + inner.action.size)
        return replace(inner, obs_slices=slices)

    def begin(self, key: Array, state: EnvState) -> Any:
        """The first observation throughout, and no action yet."""
        size = self.env.spec.action.size if self.actions else 0
        return (
            jnp.stack([state.obs] * self.steps),
            jnp.zeros((self.steps if self.actions else 0, size), state.obs.dtype),
        )

    def seen(self, own: Any, task: Array, obs: Array, action: Array | None) -> tuple[Array, Any]:
        """The observations and actions, the newest first."""
        observations, actions = own
        if action is not None:
            observations = jnp.concatenate([obs[None], observations[:-1]])
            if self.actions:
                actions = jnp.concatenate([jnp.asarray(action, obs.dtype)[None], actions[:-1]])
        return jnp.concatenate([observations.ravel(), actions.ravel()]), (observations, actions)


def history(env: Env, steps: int, actions: bool = False) -> Stacked:
    """An environment whose observation holds those of the last steps, the newest first.

    At the start of an episode, all of them are the first one, and the actions are 0.

    Args:
        env: any.
        steps: number of observations, that of now included; at least 2, or 1 with ``actions``.
        actions: whether the last ``steps`` actions of the policy follow.

    Raises:
        ValueError: for too few steps, or discrete actions; one line.
    """
    if not isinstance(steps, int) or steps < 2 - bool(actions):
        raise ValueError(f"history: steps must be at least {2 - bool(actions)}, got {steps!r}")
    if actions and not isinstance(env.spec.action, Continuous):
        raise ValueError(f"history: actions of {env.spec.name} are discrete, so they cannot be stacked")
    return Stacked(env, steps, actions)
