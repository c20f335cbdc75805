"""Humanoids whose goals or bodies differ between tasks. Source: RoML, based on gym's Humanoid-v2."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from roml_jax.envs.edits import Edit, TaskDimension
from roml_jax.envs.options import MujocoOptions, build, load
from roml_jax.envs.task_env import Motion, Reward, TaskEnv, View
from roml_jax.types import Array

_PARTS = range(1, 18)  # geom 0 is the floor
_HEAD = 2


@dataclass(frozen=True)
class HumanoidOptions(MujocoOptions):
    """Options of the physics and of the observation."""

    contact_inputs: bool = True
    """Include the 84 contact forces in the observation. They are zeros: the engines of the published results
    did not compute them."""


def _center_x(view: View) -> Array:
    """The x of the center of mass, from the body positions of the last physics substep."""
    mass = view.field("body_mass")
    return (mass * view.readings["xipos"][:, 0]).sum() / mass.sum()


def _shared_terms(motion: Motion) -> dict[str, Array]:
    upright = (motion.after.qpos[2] >= 1.0) & (motion.after.qpos[2] <= 2.0)
    return {
        "control": -0.1 * jnp.square(motion.ctrl).sum(),
        "upright": 5.0 * upright,  # 0 for a fallen humanoid; the episode continues
    }


def _speed(motion: Motion) -> Array:
    return (_center_x(motion.after) - _center_x(motion.before)) / motion.dt


def _run(motion: Motion) -> dict[str, Array]:
    return {"forward": 1.25 * _speed(motion), **_shared_terms(motion)}


def _track(motion: Motion) -> dict[str, Array]:
    error = jnp.abs(_speed(motion) - motion.after.task[0])
    return {"velocity": -1.25 * error, **_shared_terms(motion)}


def _humanoid(
    name: str, config: HumanoidOptions, dimensions: tuple[TaskDimension, ...], reward: Reward = _run
) -> TaskEnv:
    observation = {
        "position": lambda view: view.qpos[2:],
        "velocity": lambda view: view.qvel,
        "inertia": lambda view: view.readings["cinert"],
        "body_velocity": lambda view: view.readings["cvel"],
        "actuator_force": lambda view: view.readings["qfrc_actuator"],
    }
    model = load("humanoid", config)
    if config.contact_inputs:
        observation["contact_force"] = lambda view: jnp.zeros(6 * model.nbody)
    return build(
        name, config, model, dimensions, observation=observation, reward=reward,
        readings=("xipos", "cinert", "cvel", "qfrc_actuator"), noise=(0.01, 0.01), normal_velocity=False,
    )  # fmt: skip


def velocity(config: HumanoidOptions) -> TaskEnv:
    """Walk at a target velocity, uniform on [0, 2.5] m/s and not observed; all tasks have the same body."""
    return _humanoid("humanoid_vel", config, (TaskDimension("velocity", 0.0, 2.5),), _track)


def mass(config: HumanoidOptions) -> TaskEnv:
    """Walk forward; the task is a factor in [1/2, 2] on every body's mass and every limb's radius."""
    edits = (Edit("body_mass"), Edit("geom_size", rows=_PARTS, column=0))
    return _humanoid("humanoid_mass", config, (TaskDimension("mass", 0.5, 2.0, edits, "log"),))


def body(config: HumanoidOptions) -> TaskEnv:
    """Walk forward; the task is factors in [1/2, 2] on mass (and radius), damping and head size."""
    limbs = [geom for geom in _PARTS if geom != _HEAD]
    mass = (Edit("body_mass"), Edit("geom_size", rows=limbs, column=0))
    dimensions = (
        TaskDimension("mass", 0.5, 2.0, mass, "log"),
        TaskDimension("damping", 0.5, 2.0, (Edit("dof_damping"),), "log"),
        TaskDimension("head", 0.5, 2.0, (Edit("geom_size", rows=_HEAD),), "log"),
    )
    return _humanoid("humanoid_body", config, dimensions)
