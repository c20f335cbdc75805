"""MJX's data and the state of an episode: what is set, what is carried, what is read."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from roml_jax.envs.physics import readings as reading
from roml_jax.envs.physics.base import Given, ModelLeaves, PhysicsState
from roml_jax.quiet import mjx
from roml_jax.types import Array

INSTEAD = "the engine 'mujoco' may support it"
# Fields that MJX has in another form than MuJoCo: dense for sparse, static sizes for counts of a moment.
_OTHERWISE = frozenset((
    "M", "actuator_moment", "moment_colind", "moment_rowadr", "moment_rownnz", "ncon", "ne", "nefc", "nf",
    "nl", "qLD", "qLDiagInv", "ten_J", "ten_wrapadr", "ten_wrapnum", "wrap_obj", "wrap_xpos",
))  # fmt: skip
_FUNCTIONS: dict[Callable[[mujoco.MjModel, mujoco.MjData], None], str] = {
    mujoco.mj_rnePostConstraint: "rne_postconstraint",
    mujoco.mj_subtreeVel: "subtree_vel",
}


def of_state(blank: mjx.Data, state: PhysicsState) -> mjx.Data:
    """The data of a state, all else blank."""
    moving = {name: getattr(state, name) for name in ("qpos", "qvel", "act", "qacc_warmstart")}
    return blank.replace(**moving, **state.carried)


def state_of(data: mjx.Data, readings: tuple[str, ...], kept: tuple[str, ...]) -> PhysicsState:
    """The state of the data, with the readings and the carried parts."""
    read = {name: getattr(data, name) for name in readings}
    parts = {name: getattr(data, name) for name in kept}
    return PhysicsState(data.qpos, data.qvel, data.act, data.qacc_warmstart, read, parts)


def check_state(model: mujoco.MjModel) -> None:
    """Refuses models with state that MJX does not have.

    Raises:
        ValueError: for a model with delays or plastic springs; one line.
    """
    if model.nhistory or model.nplastic:  # ty: ignore[missing-attribute]  # the stubs are of MuJoCo 3.17
        what = "delays of actuators and sensors" if model.nhistory else "plastic springs"
        raise ValueError(f"MJX cannot simulate this model (it has no {what}); {INSTEAD}")


def check(model: mujoco.MjModel, blank: mjx.Data, impl: str, readings: tuple[str, ...]) -> None:
    """Refuses readings that this implementation of MJX does not have as MuJoCo has them.

    Raises:
        ValueError: one line.
    """
    for name in readings:
        if name in _OTHERWISE or not hasattr(blank, name):
            raise ValueError(f"readings: MJX's data has no field {name!r}; {INSTEAD}")
        if name in reading.ON_REQUEST and impl != "jax":
            raise ValueError(f"readings: Warp does not compute {name}; {INSTEAD}")
        if name in ("cfrc_int", "cfrc_ext") and _pulled(model):
            raise ValueError(
                f"readings: MJX's {name} lacks the forces of spatial tendons and of welds; {INSTEAD}"
            )


def _pulled(model: mujoco.MjModel) -> bool:
    """Whether spatial tendons or welds act on the bodies."""
    spatial = model.wrap_type != mujoco.mjtWrap.mjWRAP_JOINT
    return bool(spatial.any() or (model.eq_type == mujoco.mjtEq.mjEQ_WELD).any())


def mocap_poses(base: mujoco.MjModel, leaves: ModelLeaves) -> dict[str, Array]:
    """The poses of the mocap bodies at the start of an episode: those of the task's model."""
    bodies = [int(np.flatnonzero(base.body_mocapid == i)[0]) for i in range(base.nmocap)]
    pose = {"mocap_pos": "body_pos", "mocap_quat": "body_quat"}
    return {name: leaves[field][np.array(bodies)] for name, field in pose.items() if field in leaves}


def on_request(model: mjx.Model, before: mjx.Data, after: mjx.Data, readings: tuple[str, ...]) -> mjx.Data:
    """The data after a substep, with the readings that MJX's step leaves at 0, as of the substep's start."""
    functions = {reading.ON_REQUEST[name] for name in readings if name in reading.ON_REQUEST}
    if not functions:
        return after
    seen = after.replace(qvel=before.qvel)
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:  # the data are those of its last stage
        seen = mjx.forward(model, before)
    for function in functions:
        seen = getattr(mjx, _FUNCTIONS[function])(model, seen)
    computed = {name: getattr(seen, name) for name in readings if name in reading.ON_REQUEST}
    return after.tree_replace({f"_impl.{name}": value for name, value in computed.items()})


def start_parts(
    base: mujoco.MjModel, leaves: ModelLeaves, names: tuple[str, ...], given: Given
) -> dict[str, Array]:
    """The given parts of the state and the controls, and the poses of the task's mocap bodies."""
    parts = mocap_poses(base, leaves) if base.nmocap else {}
    return parts | {name: part for name, part in (given or {}).items() if name in ("act", "ctrl", *names)}
