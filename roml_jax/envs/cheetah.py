"""Half-cheetahs whose bodies differ between tasks. Source: RoML on gym's HalfCheetah-v2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import jax
import jax.numpy as jnp
import mujoco

from roml_jax import checks, tasks
from roml_jax.envs.base import EnvState
from roml_jax.envs.physics import mjx as mjx_engine
from roml_jax.envs.physics.base import ModelLeaves, Physics, PhysicsState
from roml_jax.types import Array, Continuous, EnvSpec

_CONTROL_COST = 0.05
_RESET_NOISE = 0.1
_RADIUS = 0.046  # of every capsule of the model, in metres
_OBS = {
    "position": slice(0, 8),  # qpos without the root's x
    "velocity": slice(8, 17),
    "torso_xyz": slice(17, 20),  # as the last physics substep left it
}


def load_model(iterations: int, ls_iterations: int) -> mujoco.MjModel:
    """The original MJCF, from the installed gymnasium, with the solver's iteration limits."""
    path = resources.files("gymnasium") / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
    spec = mujoco.MjSpec.from_file(str(path))
    spec.option.iterations = iterations
    spec.option.ls_iterations = ls_iterations
    with warnings.catch_warnings():
        # the file scales its masses to 14 in all with an attribute that MuJoCo deprecates
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        return spec.compile()


@dataclass(frozen=True)
class CheetahMass:
    """Run forward; the task is a factor m in [1/2, 2] on every body's mass and every limb's radius.

    Inertia and the solver's inverse weights stay those of m = 1, as in the reference.
    """

    iterations: int = 4
    """Constraint solver iterations; 4 is as good as MuJoCo's 100 here, 2 is another physics."""
    ls_iterations: int = 8
    """Line-search iterations."""
    frame_skip: int = 5
    """Physics steps of 0.01 s per control step."""

    def __post_init__(self) -> None:
        checks.at_least(self, "env", 1, "iterations", "ls_iterations", "frame_skip")

    @property
    def spec(self) -> EnvSpec:
        """20 numbers, 6 torques that the model clamps to [-1, 1], 2 episodes of 200 steps."""
        return EnvSpec("cheetah_mass", _OBS, Continuous(6), horizon=200, episodes=2)

    @property
    def family(self) -> tasks.TaskFamily:
        """M = 2^x, x uniform on [-1, 1]; the heaviest are hardest."""
        return tasks.log_beta(("mass",), hardest="top")

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The unedited model."""
        return load_model(self.iterations, self.ls_iterations)

    @cached_property
    def physics(self) -> Physics:
        """The engine."""
        return mjx_engine.make(self.model, self.frame_skip, readings=("xpos",))

    def edit(self, task: Array) -> ModelLeaves:
        """The model fields of a task (1,)."""
        mass = task[0]
        sizes = jnp.asarray(self.physics.field("geom_size"))
        return {
            "body_mass": mass * self.physics.field("body_mass"),
            "geom_size": sizes.at[1:, 0].set(_RADIUS * mass),  # geom 0 is the floor
        }

    def reset(self, key: Array, task: Array) -> EnvState:
        """Near the initial pose: qpos uniform within 0.1, qvel normal with deviation 0.1."""
        key, pos_key, vel_key = jax.random.split(key, 3)
        qpos0 = self.physics.qpos0
        qpos = qpos0 + jax.random.uniform(pos_key, qpos0.shape, minval=-_RESET_NOISE, maxval=_RESET_NOISE)
        qvel = _RESET_NOISE * jax.random.normal(vel_key, (self.model.nv,))
        leaves = self.edit(task)
        physics = self.physics.reset(qpos, qvel, leaves)
        return EnvState.start(self._observe(physics), key, task, physics, leaves)

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One control step of 0.05 s; the cost is on the action as given, before MuJoCo clamps it."""
        physics = self.physics.step(state.physics, action, state.model)
        dt = self.frame_skip * self.model.opt.timestep
        velocity = (physics.qpos[0] - state.physics.qpos[0]) / dt
        reward = velocity - _CONTROL_COST * jnp.square(action).sum() + physics.qpos[1]
        return state._replace(obs=self._observe(physics), reward=reward, physics=physics)

    @staticmethod
    def _observe(physics: PhysicsState) -> Array:
        (xpos,) = physics.readings
        return jnp.concatenate([physics.qpos[1:], physics.qvel, xpos[1]])
