"""Hopper and Walker2d with masses, friction and motors that differ between tasks; a fall ends the episode.

Models, observations, rewards and ends of episodes are those of gymnasium's Hopper-v5 and Walker2d-v5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from roml_jax.envs.edits import Edit, TaskDimension
from roml_jax.envs.options import MujocoOptions, build, load
from roml_jax.envs.physics import Derived
from roml_jax.envs.task_env import Motion, TaskEnv, View
from roml_jax.types import Array

_HEIGHT, _ANGLE = 1, 2  # of the torso, in qpos; qpos[0] is its x
_MAX_SPEED = 10.0  # of an observed velocity
_BLOWN_UP = 100.0  # a hopper with a larger position or velocity counts as fallen
_NOISE = (5e-3, 5e-3)
_DIMENSIONS = (
    TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),), "log"),
    TaskDimension("friction", 0.5, 2.0, (Edit("geom_friction", column=0),), "log"),
    TaskDimension("motor", 0.5, 2.0, (Edit("actuator_gear", column=0),), "log"),
)


@dataclass(frozen=True)
class PlanarOptions(MujocoOptions):
    """Options of the physics, with gymnasium's number of physics steps."""

    derived: Derived = "consistent"
    """Quantities that depend on edited fields (inertia, the solver's inverse weights): 'consistent',
    recomputed for every task; 'stale', those of the unedited model."""
    frame_skip: int = 4
    """Physics steps per control step."""


class _Limits(NamedTuple):
    """Open intervals of the torso's height (m) and angle (rad) in which a robot has not fallen."""

    height: tuple[float, float]
    angle: tuple[float, float]

    def upright(self, view: View) -> Array:
        """Whether the robot has not fallen."""
        height, angle = view.qpos[_HEIGHT], view.qpos[_ANGLE]
        (lowest, highest), (least, most) = self
        return (lowest < height) & (height < highest) & (least < angle) & (angle < most)


_HOPPER = _Limits((0.7, float("inf")), (-0.2, 0.2))
_WALKER = _Limits((0.8, 2.0), (-1.0, 1.0))
_OBSERVATION = {
    "position": lambda view: view.qpos[1:],  # without the torso's x
    "velocity": lambda view: jnp.clip(view.qvel, -_MAX_SPEED, _MAX_SPEED),
}


def _hops(view: View) -> Array:
    rest = jnp.concatenate([view.qpos[2:], view.qvel])
    return _HOPPER.upright(view) & (jnp.abs(rest) < _BLOWN_UP).all()


def _planar(name: str, robot: str, config: PlanarOptions, upright: Callable[[View], Array]) -> TaskEnv:
    def reward(motion: Motion) -> dict[str, Array]:
        return {
            "forward": (motion.after.qpos[0] - motion.before.qpos[0]) / motion.dt,
            "control": -1e-3 * jnp.square(motion.action).sum(),  # of the unclamped action
            "upright": 1.0 * upright(motion.after),
        }

    return build(
        name, config, load(robot, config, halve_margins=False), _DIMENSIONS, observation=_OBSERVATION,
        reward=reward, readings=(), noise=_NOISE, normal_velocity=False, horizon=1000,
        terminate=lambda view: ~upright(view),
    )  # fmt: skip


def hopper(config: PlanarOptions) -> TaskEnv:
    """Hop forward; the task is factors in [1/2, 2] on mass, friction and motor strength; a fall ends it."""
    return _planar("hopper_dynamics", "hopper", config, _hops)


def walker2d(config: PlanarOptions) -> TaskEnv:
    """Walk forward; the task is factors in [1/2, 2] on mass, friction and motor strength; a fall ends it."""
    return _planar("walker2d_dynamics", "walker2d_v5", config, _WALKER.upright)
