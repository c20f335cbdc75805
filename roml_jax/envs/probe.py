"""Probe environments: tiny, with known optimal values; each tests one part of a learner."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from roml_jax import tasks
from roml_jax.envs.base import EnvState
from roml_jax.types import Array, Continuous, Discrete, EnvSpec

_EPISODES, _HORIZON = 2, 8


def _spec(name: str, action: Discrete | Continuous) -> EnvSpec:
    return EnvSpec(name, {"signal": slice(0, 1)}, action, _HORIZON, _EPISODES)


def _constant_reset(key: Array, task: Array) -> EnvState:
    return EnvState.start(jnp.ones(1), key, task, ())


@dataclass(frozen=True)
class ProbeObservation:
    """Repeat the observation: reward -(a - obs)^2; the task has no effect.

    The optimal return is 0 per episode; the best constant action earns -1/3 per step. With
    boundary="terminal", the signal is not observed at the first action of a later episode, where the optimum
    is -1/3. Fails if the observation, the Gaussian head or the critic is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """One signal, one continuous action."""
        return _spec("probe_observation", Continuous(1))

    @property
    def family(self) -> tasks.TaskFamily:
        """A task without effect."""
        return tasks.beta("ignored", 0.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Draws the first signal, uniform on [-1, 1]."""
        key, signal_key = jax.random.split(key)
        return EnvState.start(jax.random.uniform(signal_key, (1,), minval=-1.0), key, task, ())

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards minus the squared distance to the signal and draws the next signal."""
        key, signal_key = jax.random.split(state.key)
        reward = -jnp.square(jnp.asarray(action).reshape(()) - state.obs[0])
        obs = jax.random.uniform(signal_key, (1,), minval=-1.0)
        return state._replace(obs=obs, reward=reward, key=key)


@dataclass(frozen=True)
class ProbeMemory:
    """Learn which of two actions the task rewards: reward 1 for the right action, else 0.

    The observation is constant, so the policy depends on the belief. The optimal return is H - 1/2 in the
    first episode (one guess) and H afterwards; without memory it is H / 2. Fails if the encoder, the reward
    decoder or the policy's latent input is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, two actions."""
        return _spec("probe_memory", Discrete(2))

    @property
    def family(self) -> tasks.TaskFamily:
        """The right action is 1 for tasks above 0.5, else 0."""
        return tasks.beta("payer", 0.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """The observation is constant."""
        return _constant_reset(key, task)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards the right action."""
        right = jnp.asarray(action, jnp.int32) == (state.task[0] > 0.5)
        return state._replace(reward=right.astype(state.reward.dtype))


@dataclass(frozen=True)
class ProbeRisk:
    """A gamble: action 1 earns 1 on most tasks, but ``loss`` on the worst tenth; action 0 earns 0.

    Only the first action counts, and the observation does not depend on the task. The optimal mean return
    per episode is 0.9 - 0.3 = 0.6, by gambling. The optimal CVaR_0.1 of a task's mean return is 0, by not
    gambling. A learner on uniform tasks must therefore gamble, and one on the hardest tasks must not. Fails
    if the sampler is broken.
    """

    loss: float = -3.0
    """Reward of the gamble on a bad task."""

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, two actions, episodes of one decision each."""
        return EnvSpec("probe_risk", {"signal": slice(0, 1)}, Discrete(2), horizon=2, episodes=1)

    @property
    def family(self) -> tasks.TaskFamily:
        """Tasks above 0.9 are bad."""
        return tasks.beta("danger", 0.0, 1.0, hardest="top")

    def reset(self, key: Array, task: Array) -> EnvState:
        """The observation is constant; ``physics`` is whether the decision is still open, () bool."""
        return _constant_reset(key, task)._replace(physics=jnp.ones((), bool))

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards the first action only."""
        gamble = (jnp.asarray(action, jnp.int32) == 1) & state.physics
        outcome = jnp.where(state.task[0] > 0.9, self.loss, 1.0)
        reward = jnp.where(gamble, outcome, 0.0).astype(state.reward.dtype)
        return state._replace(reward=reward, physics=jnp.zeros((), bool))


@dataclass(frozen=True)
class ProbeTarget:
    """Find a target that only rewards reveal: reward -(a - target)^2, the target uniform on [-1, 1].

    The observation is constant. Without adaptation the best action is 0, which earns -1/3 per step; the
    target itself earns 0. The gradient of a step's expected reward with respect to a Gaussian policy's mean
    m is 2 (target - m), so one gradient-ascent step with learning rate 1/2 adapts completely. Fails if the
    adaptation between episodes (a posterior, an inner gradient) or its meta-learning is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, one continuous action."""
        return _spec("probe_target", Continuous(1))

    @property
    def family(self) -> tasks.TaskFamily:
        """The target."""
        return tasks.beta("target", -1.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """The observation is constant."""
        return _constant_reset(key, task)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards minus the squared distance to the target."""
        return state._replace(reward=-jnp.square(jnp.asarray(action).reshape(()) - state.task[0]))
