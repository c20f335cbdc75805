"""MuJoCo XLA: the engine that runs inside the compiled program, on every accelerator."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import mujoco

from roml_jax.envs.physics import derived as derived_fields
from roml_jax.envs.physics.base import Derived, ModelLeaves, Physics, PhysicsState, is_inert
from roml_jax.quiet import mjx
from roml_jax.types import Array

_KINEMATIC = {"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "site_xpos"}


def make(
    model: mujoco.MjModel, frame_skip: int, readings: tuple[str, ...] = (), derived: Derived = "stale"
) -> Physics:
    """An MJX engine for a compiled model.

    Args:
        model: with its solver settings as they are to be used.
        frame_skip: physics steps per control step.
        readings: fields of ``mjx.Data`` that observations or rewards need.
        derived: whether to recompute what follows from the fields that a task edits.

    Raises:
        NotImplementedError: at the first use, from MJX, for a model feature that it lacks.
    """

    @functools.cache
    def on_device() -> tuple[mjx.Model, mjx.Data]:
        # an engine may first be needed inside a trace, and outlives it
        with jax.ensure_compile_time_eval():
            device = jax.local_devices()[0]  # MJX would take the first of all, another process's too
            return (
                mjx.put_model(model, device=device, impl="jax"),
                mjx.make_data(model, device=device, impl="jax"),
            )

    def edit(leaves: ModelLeaves) -> mjx.Model:
        return on_device()[0].tree_replace(dict(leaves)) if leaves else on_device()[0]

    def data_of(state: PhysicsState) -> mjx.Data:
        return on_device()[1].replace(
            qpos=state.qpos, qvel=state.qvel, act=state.act, qacc_warmstart=state.qacc_warmstart
        )

    def state_of(data: mjx.Data) -> PhysicsState:
        read = {name: getattr(data, name) for name in readings}
        return PhysicsState(data.qpos, data.qvel, data.act, data.qacc_warmstart, read)

    def prepare(leaves: ModelLeaves) -> ModelLeaves:
        known = {name: leaf for name, leaf in leaves.items() if not is_inert(name)}
        if derived == "stale" or not known:
            return known
        return known | derived_fields.consistent(on_device()[0], known)

    def reset(qpos: Array, qvel: Array, leaves: ModelLeaves) -> PhysicsState:
        data = on_device()[1].replace(qpos=qpos, qvel=qvel)
        if readings:
            kinematics_do = set(readings) <= _KINEMATIC
            data = (mjx.kinematics if kinematics_do else mjx.forward)(edit(leaves), data)
        return state_of(data)._replace(qacc_warmstart=jnp.zeros_like(qvel))

    def step(state: PhysicsState, ctrl: Array, leaves: ModelLeaves) -> PhysicsState:
        edited = edit(leaves)

        # a scan over whole Data would carry every intermediate array; the small state is enough
        def substep(small: PhysicsState, _: None) -> tuple[PhysicsState, None]:
            return state_of(mjx.step(edited, data_of(small).replace(ctrl=ctrl))), None

        return jax.lax.scan(substep, state, None, length=frame_skip)[0]

    return Physics("mjx", model, frame_skip, prepare, reset, step)
