"""The inputs of the functions that define an environment: one moment, and one control step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mujoco

from roml_jax import users_code
from roml_jax.envs.base import Parts
from roml_jax.envs.physics import ModelLeaves, PhysicsState
from roml_jax.types import Array


class View(NamedTuple):
    """The inputs of observation, reward and termination functions, at one time of one environment.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        readings: the fields of MuJoCo's data that the environment declared.
        task: (d,).
        leaves: the model fields that the task replaced.
        base: the unedited model.
        field: (name) -> the value of a model field under this task.
        number: (name) -> the task's number of a dimension, ().
        state: the whole state of the simulation: activations, ``carried["mocap_pos"]``, ...
        dt: seconds of a control step.
        action: (A,) the policy's last action, 0 at the start; None in an environment without a carry. With
            ``delay``, what the policy chose and not what has arrived.
        carry: the values of the environment's ``carry``, by name.
    """

    qpos: Array
    qvel: Array
    readings: Mapping[str, Array]
    task: Array
    leaves: ModelLeaves
    base: mujoco.MjModel
    field: Callable[[str], Array]
    number: Callable[[str], Array]
    state: PhysicsState
    dt: float
    action: Array | None
    carry: Mapping[str, Any]


class Motion(NamedTuple):
    """One control step.

    Attributes:
        before: the view at its start; its ``action`` is that of the step before.
        after: the view at its end; its ``action`` is that of this step.
        action: (A,) the action that acts in this step; with ``delay``, one that the policy chose before.
        ctrl: (nu,) the controls, clamped to the actuators' ranges, as MuJoCo does.
        dt: seconds of the control step.
    """

    before: View
    after: View
    action: Array
    ctrl: Array
    dt: float


Observation = Parts
Reward = Callable[[Motion], Mapping[str, Array]]


def read(parts: Observation, view: View) -> dict[str, Array]:
    """The named parts of a view as vectors."""
    return {name: users_code.part(name, part, view) for name, part in parts.items()}


def default_observation(model: mujoco.MjModel) -> Observation:
    """All positions, except a free root's x and y, and all velocities."""
    free = model.njnt > 0 and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    return {"position": lambda view: view.qpos[2 if free else 0 :], "velocity": lambda view: view.qvel}
