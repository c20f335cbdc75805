"""Ants whose goals or bodies differ between tasks. Source: RoML's ant, based on gym's Ant-v2."""

from __future__ import annotations

import jax.numpy as jnp

from roml_jax import tasks
from roml_jax.envs.edits import Edit, TaskDimension
from roml_jax.envs.options import MujocoOptions, build, load
from roml_jax.envs.task_env import Motion, Observation, Reward, TaskEnv
from roml_jax.types import Array

_TORSO = 1
_LEG = 2  # the geom of the first leg
_GOAL_RADIUS = 5.0
_OBSERVATION = {
    "position": lambda view: view.qpos[2:],  # without the root's x and y
    "velocity": lambda view: view.qvel,
}


def _torso(motion: Motion) -> Array:
    """The torso's position in the data of the step's last physics substep."""
    return motion.after.readings["xpos"][_TORSO]


def _speed(motion: Motion) -> Array:
    return (_torso(motion)[0] - motion.before.readings["xpos"][_TORSO, 0]) / motion.dt


def _shared_terms(motion: Motion) -> dict[str, Array]:
    upright = (motion.after.qpos[2] >= 0.2) & (motion.after.qpos[2] <= 1.0)
    return {
        "control": -0.5 * jnp.square(motion.action).sum(),  # of the unclamped action
        "upright": 1.0 * upright,
    }


def _run(motion: Motion) -> dict[str, Array]:
    return {"forward": _speed(motion), **_shared_terms(motion)}


def _track(motion: Motion) -> dict[str, Array]:
    error = jnp.abs(_speed(motion) - motion.after.task[0])
    return {"velocity": -1.25 * error, **_shared_terms(motion)}


def _reach(motion: Motion) -> dict[str, Array]:
    return {
        "distance": -jnp.abs(_torso(motion)[:2] - motion.after.task).sum(),
        "control": -0.1 * jnp.square(motion.action).sum(),
    }


def _ant(
    name: str,
    config: MujocoOptions,
    dimensions: tuple[TaskDimension, ...],
    reward: Reward = _run,
    observation: Observation = _OBSERVATION,
    prior: tasks.TaskFamily | None = None,
) -> TaskEnv:
    model = load("ant", config)
    return build(
        name, config, model, dimensions, observation=observation, reward=reward, readings=("xpos",),
        noise=(0.1, 0.1), prior=prior,
    )  # fmt: skip


def goal(config: MujocoOptions) -> TaskEnv:
    """Walk to a goal, uniform on a disk of radius 5 m and not observed; contact inputs are zeros."""
    observation = {
        "position": lambda view: view.qpos,
        "velocity": lambda view: view.qvel,
        "contact_force": lambda view: jnp.zeros(6 * view.base.nbody),
    }
    prior = tasks.disk(("x", "y"), _GOAL_RADIUS)
    return _ant("ant_goal", config, (), _reach, observation, prior)


def velocity(config: MujocoOptions) -> TaskEnv:
    """Walk at a target velocity, uniform on [0, 3] m/s and not observed; all tasks have the same body."""
    return _ant("ant_vel", config, (TaskDimension("velocity", 0.0, 3.0),), _track)


def mass(config: MujocoOptions) -> TaskEnv:
    """Walk forward; the task is a factor in [1/2, 2] on every body's mass; the geometry is the same."""
    return _ant("ant_mass", config, (TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),), "log"),))


def body(config: MujocoOptions) -> TaskEnv:
    """Walk forward; the task is factors in [1/2, 2] on mass, damping and the length of the first leg."""
    dimensions = (
        TaskDimension("mass", 0.5, 2.0, (Edit("body_mass"),), "log"),
        TaskDimension("damping", 0.5, 2.0, (Edit("dof_damping"),), "log"),
        TaskDimension("leg", 0.5, 2.0, (Edit("geom_size", rows=_LEG, column=1),), "log"),
    )
    return _ant("ant_body", config, dimensions)
