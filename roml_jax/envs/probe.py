"""Probe environments: tiny, with known optimal values, each isolating one part of the learner."""

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
    """Repeat the observation: reward -(a - obs)^2, the task is irrelevant.

    Optimal return 0 per episode; the best constant action earns -1/3 per step. Under
    boundary="terminal" the first action of a later episode cannot see its signal: the optimum there is
    -1/3. Fails if the observation, the Gaussian head or the critic is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """One signal, one real action."""
        return _spec("probe_observation", Continuous(1))

    @property
    def family(self) -> tasks.TaskFamily:
        """A task that changes nothing."""
        return tasks.beta("ignored", 0.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Draws the first signal, uniform on [-1, 1]."""
        key, signal_key = jax.random.split(key)
        return EnvState.start(jax.random.uniform(signal_key, (1,), minval=-1.0), key, task, ())

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards the distance to the signal and draws the next one."""
        key, signal_key = jax.random.split(state.key)
        reward = -jnp.square(jnp.asarray(action).reshape(()) - state.obs[0])
        obs = jax.random.uniform(signal_key, (1,), minval=-1.0)
        return state._replace(obs=obs, reward=reward, key=key)


@dataclass(frozen=True)
class ProbeMemory:
    """Find out which of two actions the task pays: reward 1 for the right one, else 0.

    The observation is constant, so only the belief can tell. Optimal return: H - 1/2 in the first
    episode (one guess), H afterwards; without memory H / 2. Fails if encoder, reward decoder or the
    latent's way into the policy is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, two actions."""
        return _spec("probe_memory", Discrete(2))

    @property
    def family(self) -> tasks.TaskFamily:
        """Below a half action 0 pays, above it action 1."""
        return tasks.beta("payer", 0.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Nothing to see."""
        return _constant_reset(key, task)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Pays the right action."""
        right = jnp.asarray(action, jnp.int32) == (state.task[0] > 0.5)
        return state._replace(reward=right.astype(state.reward.dtype))


@dataclass(frozen=True)
class ProbeRisk:
    """A gamble that pays on most tasks: action 1 pays 1, but ``loss`` on the worst tenth; action 0 pays 0.

    Only the first action counts, and nothing tells the tasks apart before it. Optimal mean return per
    episode: 0.9 - 0.3 = 0.6, by gambling. Optimal CVaR_0.1 of a task's mean return: 0, by not gambling.
    So a learner on uniform tasks must gamble and one on the hardest tasks must not: fails if the
    sampler is broken.
    """

    loss: float = -3.0
    """What the gamble costs on a bad task."""

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, two actions, episodes of one decision each."""
        return EnvSpec("probe_risk", {"signal": slice(0, 1)}, Discrete(2), horizon=2, episodes=1)

    @property
    def family(self) -> tasks.TaskFamily:
        """Tasks above 0.9 are bad."""
        return tasks.beta("danger", 0.0, 1.0, hardest="top")

    def reset(self, key: Array, task: Array) -> EnvState:
        """Nothing to see; the physics remembers whether the decision is still open."""
        return _constant_reset(key, task)._replace(physics=jnp.ones((), bool))

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Pays for the first action only."""
        gamble = (jnp.asarray(action, jnp.int32) == 1) & state.physics
        outcome = jnp.where(state.task[0] > 0.9, self.loss, 1.0)
        reward = jnp.where(gamble, outcome, 0.0).astype(state.reward.dtype)
        return state._replace(reward=reward, physics=jnp.zeros((), bool))


@dataclass(frozen=True)
class ProbeTarget:
    """Hit a number that only rewards tell: reward -(a - target)^2, the target uniform on [-1, 1].

    The observation is constant. Without adaptation the best is 0, which earns -1/3 per step; one that
    knows the target earns 0. The gradient of a step's expected reward by a Gaussian policy's mean m is
    2 (target - m), so one step of gradient ascent of length 1/2 is the whole adaptation. Fails if what
    adapts between episodes (a posterior, an inner gradient) or what makes it learn to is broken.
    """

    @property
    def spec(self) -> EnvSpec:
        """A constant signal, one real action."""
        return _spec("probe_target", Continuous(1))

    @property
    def family(self) -> tasks.TaskFamily:
        """The target."""
        return tasks.beta("target", -1.0, 1.0)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Nothing to see."""
        return _constant_reset(key, task)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Rewards the distance to the target."""
        return state._replace(reward=-jnp.square(jnp.asarray(action).reshape(()) - state.task[0]))
