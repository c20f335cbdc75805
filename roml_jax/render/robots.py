"""What pictures need of a robot's environment: its MuJoCo model, with the edits of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import Env, TaskEnv, inside, pictures
from roml_jax.envs.adapters import AdaptedEnv
from roml_jax.envs.physics.base import ModelLeaves
from roml_jax.types import Array


class Robot(NamedTuple):
    """A robot's environment for pictures.

    Attributes:
        model: the compiled model, without edits.
        apply_task: (task (d,)) -> the model fields that the task replaces.
        dt: seconds of a control step.
        names: names of the task's dimensions.
    """

    model: mujoco.MjModel
    apply_task: Callable[[Array], ModelLeaves]
    dt: float
    names: tuple[str, ...]

    def edited(self, task: np.ndarray) -> mujoco.MjModel:
        """A copy of the model with a task's edits."""
        return pictures.edited(self.model, self.apply_task(jnp.asarray(task, jnp.float32)))


def of(env: Env) -> Robot | None:
    """The robot of an environment of one's own, of brax or of Playground; None without a MuJoCo model.

    A wrapped environment has the robot inside. A wrapper's task dimensions follow those of the robot.
    """
    robot, names = inside(env)[0], env.family.names
    if isinstance(robot, TaskEnv):
        return Robot(robot.physics.model, robot.apply_task, robot.physics.dt, names)
    if isinstance(robot, AdaptedEnv):
        return Robot(robot.mj_model, robot.apply_task, float(robot.env.dt), names)
    return None
