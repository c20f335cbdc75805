"""MuJoCo XLA: the engine that runs inside the compiled program, on every accelerator."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco

from roml_jax.envs.physics import derived as derived_fields
from roml_jax.envs.physics.base import Derived, ModelLeaves, Physics, PhysicsState, is_inert
from roml_jax.quiet import mjx
from roml_jax.types import Array

_KINEMATIC = {"xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "site_xpos"}
_INSTEAD = "the engine 'mujoco' may"


def is_traced(model: mjx.Model, field: str) -> bool:
    """Whether a field of MJX's model may differ between tasks; some it lacks, others are constants."""
    value: Any = model
    for part in field.split("."):
        value = getattr(value, part, None)
    return isinstance(value, jax.Array)


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
        ValueError: at the first use, for a feature of the model that MJX lacks or a field that it fixes.
    """

    @functools.cache
    def on_device() -> tuple[mjx.Model, mjx.Data]:
        # an engine may first be needed inside a trace, and outlives it
        with jax.ensure_compile_time_eval():
            try:
                made = mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax")
            except NotImplementedError as error:
                raise ValueError(f"MJX cannot simulate this model ({error}); {_INSTEAD}") from None
        for name in readings:
            if not hasattr(made[1], name):
                raise ValueError(f"MJX's data has no field {name!r} to read; {_INSTEAD}")
        return made

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
        for name in known:
            if not is_traced(on_device()[0], name):
                raise ValueError(f"MJX has no {name} that could vary; {_INSTEAD}")
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
