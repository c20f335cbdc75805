"""An agent's memory of a task: a GRU over its actions, observations and rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp

from roml_jax import checks
from roml_jax.networks import JOINED, Gru, Network, block_diagonal, default_dense, linear
from roml_jax.types import Array, Continuous, Discrete, EnvSpec, Rollout


@dataclass(frozen=True)
class HistoryConfig:
    """Sizes of the memory's networks."""

    hidden: int = 128
    """Size of the GRU."""
    action_embedding: int = 16
    """Size of an action's embedding."""
    obs_embedding: int = 32
    """Size of an observation's embedding."""
    reward_embedding: int = 16
    """Size of a reward's embedding."""
    tbptt: int | None = None
    """Steps between truncations of the gradient through time; None for no truncation."""

    def __post_init__(self) -> None:
        self.check("memory")

    def check(self, group: str) -> None:
        """Raises ValueError for an invalid size; the message names it as an option of ``group``."""
        embeddings = ("action_embedding", "obs_embedding", "reward_embedding")
        checks.at_least(self, group, 1, "hidden", *embeddings, "tbptt")


class Trajectory(NamedTuple):
    """All episodes of a task, T = K H steps.

    Attributes:
        obs: (..., K, H + 1, D).
        action: (..., T, A) executed actions.
        reward: (..., T) raw.
        valid: (..., T) bool.
        task: (..., d) for a learner that uses the task as a training target, else None.
    """

    obs: Array
    action: Array
    reward: Array
    valid: Array
    task: Array | None = None


def empty(spec: EnvSpec, with_task: bool = False) -> Trajectory:
    """A trajectory of zeros for one task, without a batch axis; for shapes."""
    k, h, d, a = spec.episodes, spec.horizon, spec.obs_size, spec.action.size
    return Trajectory(
        jnp.zeros((k, h + 1, d)),
        jnp.zeros((k * h, a)),
        jnp.zeros(k * h),
        jnp.zeros(k * h, bool),
        jnp.zeros(spec.task_size) if with_task else None,
    )


def trajectory_of(rollout: Rollout, action: Discrete | Continuous, with_task: bool = False) -> Trajectory:
    """A rollout's episodes in sequence, (N, T, ...), with executed actions."""
    n, k, h = rollout.reward.shape
    return Trajectory(
        rollout.obs,
        action.executed(rollout.action).reshape(n, k * h, -1),
        rollout.reward.reshape(n, k * h),
        rollout.valid.reshape(n, k * h),
        rollout.task if with_task else None,
    )


C = TypeVar("C", bound=HistoryConfig)


class Recurrent(Network, Generic[C]):
    """Embeds (action, next observation, reward) and runs a GRU."""

    config: C
    obs_size: int
    action_size: int

    def setup(self) -> None:
        """Creates the layers."""
        c = self.config
        self.embed_action = default_dense(c.action_embedding, self.action_size)
        self.embed_obs = default_dense(c.obs_embedding, self.obs_size)
        self.embed_reward = default_dense(c.reward_embedding, 1)
        self.gru = Gru(c.hidden, c.action_embedding + c.obs_embedding + c.reward_embedding)

    def prepared(self, params: Any) -> Any:
        """The parameters, with one layer for all embeddings; for many steps with the same parameters."""
        layers = (params["params"][f"embed_{name}"] for name in ("action", "obs", "reward"))
        return {**params, JOINED: {"embedding": block_diagonal(*layers)}}

    def project(self, action: Array, next_obs: Array, reward: Array) -> Array:
        """The GRU's input products (..., 3 * hidden) of steps: action (..., A), reward (...)."""
        if self.has_variable(JOINED, "embedding"):
            embedding = self.get_variable(JOINED, "embedding")
            return self.gru.project(nn.relu(linear(embedding, action, next_obs, reward[..., None])))
        parts = (
            nn.relu(self.embed_action(action)),
            nn.relu(self.embed_obs(next_obs)),
            nn.relu(self.embed_reward(reward[..., None])),
        )
        return self.gru.project(jnp.concatenate(parts, axis=-1))

    def observe(self, hidden: Array, action: Array, next_obs: Array, reward: Array) -> Array:
        """The hidden state (N, hidden) after one step."""
        return self.gru.step(hidden, self.project(action, next_obs, reward))

    def unroll(self, trajectory: Trajectory) -> Array:
        """Hidden states (B, T + 1, hidden) along trajectories (B, ...); index 0 is before the first step.

        The gradient through the hidden state is cut every ``tbptt`` steps.
        """
        obs = trajectory.obs[:, :, 1:]
        next_obs = obs.reshape(*trajectory.action.shape[:2], obs.shape[-1])
        projected = self.project(trajectory.action, next_obs, trajectory.reward)
        batch, steps, hidden_size = *projected.shape[:2], self.config.hidden
        step_index = jnp.arange(steps)
        cut = (
            (step_index % self.config.tbptt == 0) if self.config.tbptt is not None else jnp.zeros(steps, bool)
        )

        start = jnp.zeros((batch, hidden_size), projected.dtype)
        hidden = self.gru.unroll(start, jnp.swapaxes(projected, 0, 1), trajectory.valid.T, cut)
        return jnp.concatenate([start[:, None], jnp.swapaxes(hidden, 0, 1)], axis=1)


class History(Recurrent[HistoryConfig]):
    """A memory whose output is its hidden state."""

    def __call__(self, trajectory: Trajectory) -> Array:
        """As ``unroll``."""
        return self.unroll(trajectory)
