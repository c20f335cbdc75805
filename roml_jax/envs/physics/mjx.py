"""MuJoCo XLA: the engine that runs inside the compiled program, on every accelerator."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.physics.base import ModelLeaves, Physics, PhysicsState
from roml_jax.quiet import mjx
from roml_jax.types import Array

_KINEMATIC = {"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "site_xpos"}


def make(model: mujoco.MjModel, frame_skip: int, readings: tuple[str, ...] = ()) -> Physics:
    """An MJX engine for a compiled model.

    Args:
        model: with its solver settings as they are to be used.
        frame_skip: physics steps per control step.
        readings: fields of ``mjx.Data`` that observations or rewards need.

    Raises:
        NotImplementedError: from MJX, for a model feature that it lacks.
    """
    # an engine may first be needed inside a trace, and outlives it
    with jax.ensure_compile_time_eval():
        device_model = mjx.put_model(model, impl="jax")
        blank = mjx.make_data(model, impl="jax")
    needs_only_kinematics = set(readings) <= _KINEMATIC

    def edit(leaves: ModelLeaves) -> mjx.Model:
        return device_model.tree_replace(dict(leaves)) if leaves else device_model

    def data_of(state: PhysicsState) -> mjx.Data:
        return blank.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.qacc_warmstart)

    def state_of(data: mjx.Data) -> PhysicsState:
        return PhysicsState(
            data.qpos, data.qvel, data.qacc_warmstart, tuple(getattr(data, name) for name in readings)
        )

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves) -> PhysicsState:
        data = blank.replace(qpos=qpos, qvel=qvel)
        if readings:
            data = (mjx.kinematics if needs_only_kinematics else mjx.forward)(edit(leaves), data)
        return state_of(data)._replace(qacc_warmstart=jnp.zeros_like(qvel))

    def step(state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        edited = edit(leaves)

        # a scan over whole Data would carry every intermediate array; the small state is enough
        def substep(small: PhysicsState, _: None) -> tuple[PhysicsState, None]:
            return state_of(mjx.step(edited, data_of(small).replace(ctrl=ctrl))), None

        return jax.lax.scan(substep, state, None, length=frame_skip)[0]

    return Physics(np.array(model.qpos0), lambda name: getattr(device_model, name), reset, step)
