"""Options shared by the environments on a physics engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco

from roml_jax import checks, tasks
from roml_jax.envs import physics
from roml_jax.envs.edits import TaskDimension, family, make_apply_task
from roml_jax.envs.physics import Contacts, Derived, EngineName
from roml_jax.envs.starts import noisy_start
from roml_jax.envs.task_env import Observation, Reward, TaskEnv, View, gymnasium_model
from roml_jax.types import Array

# Limits of solver and line-search iterations. The C engine stops when it has converged. MJX under vmap runs
# until the last task has converged, so its limits are the smallest that do not change results
# (docs/physics.md).
_C_LIMITS = (100, 50)
_MJX_LIMITS = {
    "half_cheetah": (4, 8), "ant": (8, 8), "humanoid": (8, 8), "hopper": (8, 8), "walker2d_v5": (8, 8),
}  # fmt: skip


@dataclass(frozen=True)
class MujocoOptions:
    """Options of the physics."""

    physics: EngineName = "auto"
    """Engine: 'mjx' (any device), 'mujoco' (MuJoCo's C engine, on the CPU), 'warp' (NVIDIA GPUs; needs the
    extra 'warp'); 'auto' is 'mjx' on accelerators and 'mujoco' on a CPU. --physics for short."""
    derived: Derived = "stale"
    """Quantities that depend on edited fields (inertia, the solver's inverse weights): 'stale', those of the
    unedited model (the reference); 'consistent', recomputed for every task."""
    contacts: Contacts = "right"
    """Contacts of geoms whose size a task changes: 'right', all contacts; 'reference', some are missed, as in
    the published code, which does not update the geoms' bounding radii (engine 'mujoco' only)."""
    iterations: int | None = None
    """Maximum iterations of the constraint solver; None for the engine's default for this model."""
    ls_iterations: int | None = None
    """Maximum line-search iterations per solver iteration; None for the engine's default for this model."""
    frame_skip: int = 5
    """Physics steps per control step."""

    def __post_init__(self) -> None:
        checks.at_least(self, "env", 1, "iterations", "ls_iterations", "frame_skip")


def load(robot: str, config: MujocoOptions, *, halve_margins: bool = True) -> mujoco.MjModel:
    """One of gymnasium's models, with the solver limits of the chosen engine; see ``gymnasium_model``."""
    limits = _MJX_LIMITS[robot] if physics.resolve(config.physics) != "mujoco" else _C_LIMITS
    chosen = (config.iterations or limits[0], config.ls_iterations or limits[1])
    return gymnasium_model(robot, *chosen, halve_margins=halve_margins)


def build(
    name: str,
    config: MujocoOptions,
    model: mujoco.MjModel,
    dimensions: tuple[TaskDimension, ...],
    *,
    observation: Observation,
    reward: Reward,
    readings: tuple[str, ...],
    noise: tuple[float, float],
    normal_velocity: bool = True,
    prior: tasks.TaskFamily | None = None,
    horizon: int = 200,
    terminate: Callable[[View], Array] | None = None,
) -> TaskEnv:
    """A registered environment of two episodes; the paper's have 200 steps and never end early.

    Args:
        name: the registry's name.
        config: the engine's options.
        model: with its solver settings.
        dimensions: the task dimensions.
        observation: named parts.
        reward: named terms.
        readings: fields of MuJoCo's data that observation and reward read.
        noise: of the reset, on positions and velocities.
        normal_velocity: whether initial velocities are normal; otherwise uniform.
        prior: task family for tasks that are not independent dimensions.
        horizon: H, steps per episode.
        terminate: ends an episode early; None for never.

    Raises:
        ValueError: for ``contacts=reference`` if no task changes a geom's size; one line.
    """
    resized = any(edit.field == "geom_size" for dimension in dimensions for edit in dimension.edits)
    if config.contacts == "reference" and not resized:
        raise ValueError(
            f"env.contacts=reference has no effect in {name}, whose tasks change no geom's size; leave it out"
        )
    return TaskEnv(
        name=name,
        physics=physics.make(
            config.physics, model, config.frame_skip, readings, config.derived, config.contacts
        ),
        family=prior or family(dimensions),
        apply_task=make_apply_task(model, dimensions, config.derived),
        observation=observation,
        reward=reward,
        start=noisy_start(model, *noise, normal_velocity=normal_velocity),
        horizon=horizon,
        episodes=2,
        terminate=terminate,
        dimensions=dimensions,
    )
