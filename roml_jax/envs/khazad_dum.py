"""Khazad-Dum: two bridges over an abyss, a short narrow one with dangerous noise and a long wide one.

The agent starts south of the abyss; the goal is north of it. The task is the noise level. Noise acts on the
narrow bridge only, and the task is not observed by default. Source: RoML, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from roml_jax import checks, tasks
from roml_jax.envs.base import EnvState
from roml_jax.envs.khazad_dum_map import BANK, NARROW, ROUTES, START, WIDE
from roml_jax.types import Array, Continuous, Discrete, EnvSpec

Actions = Literal["discrete", "continuous"]
Observation = Literal["bilinear", "one_hot", "position"]


_MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)
_NARROW_END = 3.0  # noise acts at smaller x, which includes half a cell of abyss east of the narrow bridge
_PAPER_HORIZON, _PAPER_DETOUR = 32, 17


class Walk(NamedTuple):
    """The agent's position (2,) in cells, and whether it has fallen or reached the goal, () bool each."""

    position: Array
    fallen: Array
    reached: Array


@dataclass(frozen=True)
class KhazadDum:
    """The grid world of RoML. The task is the standard deviation of the narrow bridge's noise.

    The paper's map, 11 cells wide and 9 high (# wall, ~ abyss, s start, G goal)::

        y
        8  ###########
        7  #.G.......#
        6  #.........#
        5  #~.~~~~...#
        4  #~.~~~~...#
        3  #~.~~~~...#
        2  #ss.......#
        1  #ss.......#
        0  ###########
           0123456789  x

    Maps of all sizes have the same layout. Walls surround the map. Two rows of land lie south of the abyss
    and two rows north of it. The start is uniform in [0.5, 2.5]^2, in the south-west corner; the goal is the
    cell (2, height - 2). The narrow bridge is the column x = 2, the wide bridge the last three columns inside
    the walls; all other cells between the banks are abyss. A larger width makes the detour longer, a larger
    height makes both bridges longer. The horizon scales with the detour: 32 steps for the paper's detour of
    17. Rewards are divided by the horizon.
    """

    mean_noise: float = 0.1
    """Mean of the noise under its prior, which is exponential; in cells."""
    actions: Actions = "discrete"
    """'discrete': one cell to -x, +x, -y or +y (the paper); 'continuous': a displacement (x, y) in cells,
    shortened to Euclidean length 1 if it is longer."""
    observation: Observation = "bilinear"
    """'bilinear': bilinear weights of the four cells around the position (the paper); 'one_hot': the cell;
    'position': x and y, scaled to [-1, 1] between the walls."""
    see_task: bool = False
    """Append the task to the observation."""
    width: int = 11
    """Cells along x, walls included, at least 8; determines the distance to the wide bridge."""
    height: int = 9
    """Cells along y, walls included, at least 7; determines the length of the bridges."""

    def __post_init__(self) -> None:
        checks.positive(self, "env", "mean_noise")
        checks.one_of(self, "env", "actions", ("discrete", "continuous"))
        checks.one_of(self, "env", "observation", ("bilinear", "one_hot", "position"))
        checks.at_least(self, "env", NARROW + WIDE + 3, "width")
        checks.at_least(self, "env", 2 * BANK + 3, "height")

    @property
    def spec(self) -> EnvSpec:
        """By default as in the paper: 99 cells, four moves, 4 episodes of 32 steps."""
        slices = {"position": slice(0, 2)}
        if self.observation != "position":
            slices = {"cells": slice(0, self.width * self.height)}
        if self.see_task:
            (position,) = slices.values()
            slices["task"] = slice(position.stop, position.stop + 1)
        action = Discrete(4) if self.actions == "discrete" else Continuous(2)
        return EnvSpec("khazad_dum", slices, action, self._horizon, episodes=4)

    @property
    def family(self) -> tasks.TaskFamily:
        """The noise of the narrow bridge, exponential under the prior."""
        return tasks.exponential("noise", self.mean_noise, hardest="top")

    @property
    def goal(self) -> tuple[int, int]:
        """The goal's cell, north of the narrow bridge."""
        return NARROW, self.height - 2

    @cached_property
    def walls(self) -> np.ndarray:
        """(width, height) bool, the cells that are walls: the border of the map."""
        cells = np.ones((self.width, self.height), bool)
        cells[1:-1, 1:-1] = False
        return cells

    @cached_property
    def abyss(self) -> np.ndarray:
        """(width, height) bool, the cells that are abyss: all between the banks except the two bridges."""
        cells = np.zeros((self.width, self.height), bool)
        cells[1 : -1 - WIDE, 1 + BANK : -1 - BANK] = True
        cells[NARROW] = False
        return cells

    @property
    def _horizon(self) -> int:
        # the detour runs from cell (1, 1) along the south bank, over the wide bridge and back to the goal
        wide = self.width - 1 - WIDE
        detour = (wide - 1) + (self.goal[1] - 1) + (wide - self.goal[0])
        return -(-_PAPER_HORIZON * detour // _PAPER_DETOUR)

    def render(self, task: np.ndarray, states: Sequence[EnvState]) -> Iterator[np.ndarray]:
        """Yields an image (height, width, 3), uint8, of the walk up to each state of an episode."""
        from roml_jax.envs.khazad_dum_figure import MapImage

        image = MapImage(self, float(task[0]))
        positions = np.stack([np.asarray(state.physics.position) for state in states])
        return (np.asarray(image.walk(positions[: t + 1])) for t in range(len(states)))

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts south of the abyss, uniformly in [0.5, 2.5]^2."""
        key, start_key = jax.random.split(key)
        position = jax.random.uniform(start_key, (2,), minval=START[0], maxval=START[1])
        walk = Walk(position, jnp.zeros((), bool), jnp.zeros((), bool))
        return EnvState.start(self.observe(position, task), key, task, walk)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One move; ``action`` is an integer () for -x, +x, -y, +y, or a displacement (2,) in cells.

        The noise does not depend on the length of the move. Only the end of a move counts: a move that would
        end in a wall is not made; a move that ends in the abyss is the last one.
        """
        key, noise_key = jax.random.split(state.key)
        walk, noise = state.physics, state.task[0]
        unresolved = ~(walk.fallen | walk.reached)
        noisy = unresolved & self._beside_abyss(walk.position) & (walk.position[0] < _NARROW_END)
        move = self._displacement(action)
        move = move + jnp.where(noisy, noise * jax.random.normal(noise_key, (2,)), 0.0)
        target = jnp.clip(walk.position + move, 0.0, jnp.array([self.width - 1.0, self.height - 1.0]))
        blocked = self._lies_in(self.walls, target)
        position = jnp.where(blocked | ~unresolved, walk.position, target)

        reaches = unresolved & self._is_at_goal(position)
        falls = unresolved & self._lies_in(self.abyss, position)
        along_x, along_y = jnp.abs(position - jnp.array(self.goal, position.dtype))
        near = jnp.maximum(-(along_x + along_y) / 5, -1.0)
        moving = near - jnp.where(noisy, 3 * noise, 0.0) + 5.0 * reaches
        resolved = jnp.where(walk.reached, 0.0, -1.0)
        reward = jnp.where(unresolved, moving, resolved) / self._horizon
        walk = Walk(position, walk.fallen | falls, walk.reached | reaches)
        obs = self.observe(position, state.task)
        return state._replace(obs=obs, reward=reward.astype(state.reward.dtype), key=key, physics=walk)

    def observe(self, position: Array, task: Array) -> Array:
        """Observation (D,) of a position (2,) in cells; cell (x, y) has the index x * height + y."""
        if self.observation == "bilinear":
            along_x = jnp.maximum(0.0, 1.0 - jnp.abs(position[0] - jnp.arange(self.width)))
            along_y = jnp.maximum(0.0, 1.0 - jnp.abs(position[1] - jnp.arange(self.height)))
            obs = jnp.outer(along_x, along_y).reshape(-1)
        elif self.observation == "one_hot":
            x, y = jnp.round(position).astype(jnp.int32)
            obs = jax.nn.one_hot(x * self.height + y, self.width * self.height, dtype=position.dtype)
        else:
            obs = 2 * position / jnp.array([self.width - 1.0, self.height - 1.0]) - 1
        return jnp.concatenate([obs, task.astype(obs.dtype)]) if self.see_task else obs

    def positions(self, obs: Array) -> Array:
        """Positions (..., 2) in cells, from observations (..., D or more); for one-hot, the cell's centre."""
        obs = jnp.asarray(obs)
        if self.observation == "position":
            return (obs[..., :2] + 1) / 2 * jnp.array([self.width - 1.0, self.height - 1.0])
        cells = obs[..., : self.width * self.height].reshape(*obs.shape[:-1], self.width, self.height)
        x = (cells.sum(axis=-1) * jnp.arange(self.width)).sum(axis=-1)
        y = (cells.sum(axis=-2) * jnp.arange(self.height)).sum(axis=-1)
        return jnp.stack([x, y], axis=-1)

    @partial(jax.jit, static_argnums=0)  # eager operations would compile one by one
    def routes(self, positions: ArrayLike) -> Array:
        """Outcomes of episodes: indices (...) into ``ROUTES`` for positions (..., T, 2) in cells.

        The last position decides whether the goal was reached, since an agent that has fallen or reached the
        goal no longer moves. The route is the last bridge that the agent was on. The first position may
        therefore belong to the previous episode, as in rollouts with ``boundary="terminal"``.
        """
        positions = jnp.asarray(positions)
        end, times = positions[..., -1, :], jnp.arange(positions.shape[-2])
        last = jnp.where(self._beside_abyss(positions), times, -1).argmax(axis=-1)
        x = jnp.take_along_axis(positions[..., 0], last[..., None], axis=-1)[..., 0]
        short, long, fall, stay = range(len(ROUTES))
        reached = jnp.where(x < _NARROW_END, short, long)
        missed = jnp.where(self._lies_in(self.abyss, end), fall, stay)
        return jnp.where(self._is_at_goal(end), reached, missed)

    def _displacement(self, action: Array) -> Array:
        if self.actions == "discrete":
            return jnp.asarray(_MOVES)[jnp.asarray(action, jnp.int32)]
        action = jnp.asarray(action)
        return action / jnp.sqrt(jnp.maximum(jnp.square(action).sum(), 1.0))

    def _beside_abyss(self, position: Array) -> Array:
        """Whether positions (..., 2) lie between the banks, on a bridge or in the abyss."""
        south = BANK + 0.5
        return (position[..., 1] > south) & (position[..., 1] < self.height - 1 - south)

    def _is_at_goal(self, position: Array) -> Array:
        cell = jnp.round(position).astype(jnp.int32)
        return (cell[..., 0] == self.goal[0]) & (cell[..., 1] == self.goal[1])

    @staticmethod
    def _lies_in(cells: np.ndarray, position: Array) -> Array:
        """Whether positions (..., 2) lie in a cell that is True in ``cells`` (width, height)."""
        cell = jnp.round(position).astype(jnp.int32)
        return jnp.asarray(cells)[cell[..., 0], cell[..., 1]]
