"""Khazad-Dum: a short narrow bridge that the task's noise makes deadly, and a long wide one.

The agent starts south of an abyss and the goal lies north of it. The noise level is the task; it
acts on the narrow bridge only and is never observed. Source: RoML, section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import checks, tasks
from roml_jax.envs.base import EnvState
from roml_jax.types import Array, Discrete, EnvSpec

WIDTH, HEIGHT = 11, 9
GOAL = (2, 7)
_MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)
_REWARD_SCALE = 32.0  # an episode of 32 steps has returns of order one


def _abyss() -> np.ndarray:
    """(WIDTH, HEIGHT) bool: rows 3 to 5 but for the bridges at x = 2 and x = 7 to 9."""
    cells = np.zeros((WIDTH, HEIGHT), bool)
    cells[1, 3:6] = True
    cells[3:7, 3:6] = True
    return cells


def _walls() -> np.ndarray:
    """(WIDTH, HEIGHT) bool: the border."""
    cells = np.ones((WIDTH, HEIGHT), bool)
    cells[1:-1, 1:-1] = False
    return cells


class Walk(NamedTuple):
    """Where the agent is: position (2,) in cells, and how its episode has been resolved."""

    position: Array
    fallen: Array
    reached: Array


def observe(position: Array) -> Array:
    """Bilinear weights of the four cells around a position (2,), (99,), cell (x, y) at x * 9 + y."""
    along_x = jnp.maximum(0.0, 1.0 - jnp.abs(position[0] - jnp.arange(WIDTH)))
    along_y = jnp.maximum(0.0, 1.0 - jnp.abs(position[1] - jnp.arange(HEIGHT)))
    return jnp.outer(along_x, along_y).reshape(-1)


@dataclass(frozen=True)
class KhazadDum:
    """The grid world of RoML with task tau, the standard deviation of the narrow bridge's noise."""

    mean_noise: float = 0.1
    """Mean of the prior over tau, which is exponential."""

    def __post_init__(self) -> None:
        checks.positive(self, "env", "mean_noise")

    @property
    def spec(self) -> EnvSpec:
        """99 cells, four moves, 4 episodes of 32 steps."""
        return EnvSpec("khazad_dum", {"cells": slice(0, WIDTH * HEIGHT)}, Discrete(4), horizon=32, episodes=4)

    @property
    def family(self) -> tasks.TaskFamily:
        """tau, exponential."""
        return tasks.exponential("noise", self.mean_noise)

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts south of the abyss, uniformly in [0.5, 2.5]^2."""
        key, start_key = jax.random.split(key)
        position = jax.random.uniform(start_key, (2,), minval=0.5, maxval=2.5)
        walk = Walk(position, jnp.zeros((), bool), jnp.zeros((), bool))
        return EnvState.start(observe(position), key, task, walk)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """Moves one cell; ``action`` () integer: -x, +x, -y, +y."""
        key, noise_key = jax.random.split(state.key)
        walk, tau = state.physics, state.task[0]
        unresolved = ~(walk.fallen | walk.reached)
        on_narrow_bridge = (walk.position[1] > 2.5) & (walk.position[1] < 5.5) & (walk.position[0] < 3)
        noisy = unresolved & on_narrow_bridge
        move = jnp.asarray(_MOVES)[jnp.asarray(action, jnp.int32)]
        move = move + jnp.where(noisy, tau * jax.random.normal(noise_key, (2,)), 0.0)
        target = jnp.clip(walk.position + move, 0.0, jnp.array([WIDTH - 1.0, HEIGHT - 1.0]))
        cell = jnp.round(target).astype(jnp.int32)
        blocked = jnp.asarray(_walls())[cell[0], cell[1]]
        position = jnp.where(blocked | ~unresolved, walk.position, target)
        cell = jnp.round(position).astype(jnp.int32)

        reaches = unresolved & (cell == jnp.array(GOAL)).all()
        falls = unresolved & jnp.asarray(_abyss())[cell[0], cell[1]]
        distance = jnp.abs(position - jnp.array(GOAL, position.dtype)).sum()
        moving = jnp.maximum(-distance / 5, -1.0) - jnp.where(noisy, 3 * tau, 0.0) + 5.0 * reaches
        resolved = jnp.where(walk.reached, 0.0, -1.0)
        reward = jnp.where(unresolved, moving, resolved) / _REWARD_SCALE
        walk = Walk(position, walk.fallen | falls, walk.reached | reaches)
        return state._replace(
            obs=observe(position), reward=reward.astype(state.reward.dtype), key=key, physics=walk
        )
