"""Half-cheetahs whose goals or bodies differ between tasks. Source: RoML, based on gym's HalfCheetah-v2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.edits import Edit, TaskDimension
from roml_jax.envs.options import MujocoOptions, build, load
from roml_jax.envs.task_env import Motion, Reward, TaskEnv, gymnasium_model
from roml_jax.types import Array

RADIUS = 0.046  # of every capsule of the model, in metres
_LIMBS = range(1, 9)  # geom 0 is the floor
_HEAD = 2
_OBSERVATION = {
    "position": lambda view: view.qpos[1:],  # without the root's x
    "velocity": lambda view: view.qvel,
    "torso_xyz": lambda view: view.readings["xpos"][1],  # of the last physics substep
}
_MASS = (Edit("body_mass"), Edit("geom_size", "set", _LIMBS, column=0, factor=RADIUS))

# The reference's three sets of ten model fields, one task dimension each. Many fields affect only rendering,
# or are zero in this model; they stay in the task so that it has as many dimensions as in the reference.
MULTI_SETS = {
    "a": ("actuator_gear", "actuator_lengthrange", "body_inertia", "cam_ipd", "geom_solmix",
          "geom_solref", "jnt_margin", "jnt_stiffness", "light_pos", "mat_rgba"),
    "b": ("cam_ipd", "cam_mat0", "dof_frictionloss", "dof_solref", "geom_friction",
          "geom_gap", "geom_rbound", "geom_solimp", "light_specular", "mat_shininess"),
    "c": ("body_ipos", "body_mass", "body_pos", "geom_gap", "geom_margin",
          "jnt_range", "jnt_solref", "jnt_stiffness", "light_specular", "mat_emission"),
}  # fmt: skip


@dataclass(frozen=True)
class MultiOptions(MujocoOptions):
    """Options of the physics, and the ten model arrays that a task scales."""

    set: Literal["a", "b", "c"] = "a"
    """Which of the reference's three sets of ten model arrays a task scales."""


def _velocity(motion: Motion) -> Array:
    return (motion.after.qpos[0] - motion.before.qpos[0]) / motion.dt


def _control_cost(motion: Motion) -> Array:
    """Control cost of the action before MuJoCo clamps it."""
    return -0.05 * jnp.square(motion.action).sum()


def _run(motion: Motion) -> dict[str, Array]:
    # qpos[1], the root's z, is the displacement from the initial height
    return {
        "forward": _velocity(motion),
        "control": _control_cost(motion),
        "height": motion.after.qpos[1],
    }


def _track(motion: Motion) -> dict[str, Array]:
    return {
        "velocity": -jnp.abs(_velocity(motion) - motion.after.task[0]),
        "control": _control_cost(motion),
    }


def _cheetah(
    name: str, config: MujocoOptions, dimensions: tuple[TaskDimension, ...], reward: Reward = _run
) -> TaskEnv:
    model = load("half_cheetah", config)
    return build(
        name, config, model, dimensions,
        observation=_OBSERVATION, reward=reward, readings=("xpos",), noise=(0.1, 0.1),
    )  # fmt: skip


def velocity(config: MujocoOptions) -> TaskEnv:
    """Run at a target velocity, uniform on [0, 7] m/s and not observed; all tasks have the same body."""
    dimensions = (TaskDimension("velocity", 0.0, 7.0, hardest="top"),)
    return _cheetah("cheetah_vel", config, dimensions, _track)


def mass(config: MujocoOptions) -> TaskEnv:
    """Run forward; the task is a factor in [1/2, 2] on every body's mass and every limb's radius."""
    dimensions = (TaskDimension("mass", 0.5, 2.0, _MASS, "log", hardest="top"),)
    return _cheetah("cheetah_mass", config, dimensions)


def body(config: MujocoOptions) -> TaskEnv:
    """Run forward; the task is factors in [1/2, 2] on mass (and radius), damping and head length."""
    dimensions = (
        TaskDimension("mass", 0.5, 2.0, _MASS, "log"),
        TaskDimension("damping", 0.5, 2.0, (Edit("dof_damping"),), "log"),
        TaskDimension("head", 0.5, 2.0, (Edit("geom_size", rows=_HEAD, column=1),), "log"),
    )
    return _cheetah("cheetah_body", config, dimensions)


def multi(config: MultiOptions) -> TaskEnv:
    """Run forward; the task is ten factors in [2^-1/2, 2^1/2], each on a whole array of the model."""
    low, high = 2**-0.5, 2**0.5
    fields = MULTI_SETS[config.set]
    dimensions = tuple(
        TaskDimension(field, low, high, _whole_array(field), "log", inert=True) for field in fields
    )
    return _cheetah("cheetah_multi", config, dimensions)


def _whole_array(field: str) -> tuple[Edit, ...]:
    """Edits that scale a whole field; ``body_ipos`` also moves the geoms in their body's inertial frame.

    MuJoCo marks those geoms when it compiles a model, and the C engine then ignores their own positions. The
    reference edits compiled models, so there these geoms move with ``body_ipos``.
    """
    if field != "body_ipos":
        return (Edit(field),)
    marks = gymnasium_model("half_cheetah").geom_sameframe
    rows = np.flatnonzero(marks == mujoco.mjtSameFrame.mjSAMEFRAME_INERTIA).tolist()
    return Edit(field), Edit("geom_pos", rows=rows)
