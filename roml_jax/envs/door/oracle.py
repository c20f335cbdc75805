"""Plain MuJoCo: edited copies of a model, states to step them from, and single control steps.

Nothing here uses this package's engines, so that it can be the reference that they are compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from roml_jax.envs.base import BLOWN_UP
from roml_jax.envs.physics import readings as readings_
from roml_jax.envs.physics.base import Contacts, Derived, field_of, write_field

_FULL = mujoco.mjtState.mjSTATE_INTEGRATION
_SECONDS, _MOST_STEPS = 0.6, 300  # of a trajectory; from rest, 0.6 s is a fall of 1.8 m
# Derived fields that a "stale" engine keeps at the unedited model's values.
_STALE = (
    "body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "tendon_length0", "tendon_invweight0",
    "actuator_length0", "actuator_acc0", "eq_data",
)  # fmt: skip
_POSES = {"geom": ("geom_pos", "geom_quat"), "site": ("site_pos", "site_quat")}
_INERTIAL = ("body_ipos", "body_iquat", "body_inertia")


class Invalid(ValueError):
    """MuJoCo refuses an edited model or a step; the message is MuJoCo's, in one line."""


def edited(
    base: mujoco.MjModel,
    leaves: Mapping[str, np.ndarray],
    derived: Derived = "consistent",
    contacts: Contacts = "right",
) -> mujoco.MjModel:
    """A copy of a compiled model, as if it had been compiled with these values.

    The compiler marks bodies and geoms whose frames coincide and skips computations for them. The marks of
    what the edits move are removed.

    Args:
        base: the unedited model.
        leaves: values of the edited fields.
        derived: as for an engine.
        contacts: as for an engine.

    Raises:
        Invalid: if MuJoCo refuses the values.
    """
    model = copy.copy(base)
    moved = {name for name, leaf in leaves.items() if (np.asarray(leaf) != field_of(base, name)).any()}
    for name, leaf in leaves.items():
        write_field(model, name, leaf)
    if derived == "consistent" and "body_mass" in leaves and "body_inertia" not in leaves:
        massive = base.body_mass > 0
        ratio = np.where(massive, model.body_mass / np.where(massive, base.body_mass, 1), 1)
        model.body_inertia[:] = base.body_inertia * ratio[:, None]
    if moved & set(_INERTIAL):
        _forget_inertial_frames(model)
    for kind, poses in _POSES.items():
        if moved & set(poses):
            getattr(model, f"{kind}_sameframe")[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    try:
        mujoco.mj_setConst(model, mujoco.MjData(model))
    except (mujoco.FatalError, ValueError) as error:
        raise Invalid(_one_line(error)) from None
    stale = (*(_STALE if derived == "stale" else ()), *(("geom_rbound",) if contacts == "reference" else ()))
    for name in stale:
        kept = leaves.get(name, getattr(base, name))
        if name == "dof_M0":  # the mass matrix itself where it is diagonal
            kept = np.where(model.body_simple[model.dof_bodyid] > 0, model.dof_M0, kept)
        getattr(model, name)[...] = kept
    return model


def _forget_inertial_frames(model: mujoco.MjModel) -> None:
    model.body_simple[:] = 0
    model.dof_simplenum[:] = 0
    model.body_sameframe[1:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    kinds = mujoco.mjtSameFrame
    inertial = [int(kinds.mjSAMEFRAME_INERTIA), int(kinds.mjSAMEFRAME_INERTIAROT)]
    for frames in (model.geom_sameframe, model.site_sameframe):
        frames[np.isin(frames, inertial)] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class States(NamedTuple):
    """States to step from.

    Attributes:
        qpos: (n, nq) positions, in single precision, as the engines get them.
        qvel: (n, nv) velocities, the same.
        touching: pairs of geoms in contact, of each state.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    touching: list[set[tuple[int, int]]]


def controls(model: mujoco.MjModel, ranges: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, nu) random controls; half of them lie beyond the ranges, so that the clamp is seen.

    Args:
        model: of the robot.
        ranges: (nu, 2) the widest control range of any task.
        n: how many.
        rng: draws them.
    """
    limited = model.actuator_ctrllimited.astype(bool) & (ranges[:, 1] > ranges[:, 0])
    low, high = np.where(limited, ranges[:, 0], -1.0), np.where(limited, ranges[:, 1], 1.0)
    middle, half = (low + high) / 2, (high - low) / 2
    return (middle + half * rng.uniform(-2, 2, (n, model.nu))).astype(np.float32)


def states(
    model: mujoco.MjModel, starts: tuple[np.ndarray, np.ndarray], n: int, rng: np.random.Generator
) -> States:
    """States that a robot visits: its initial states, and later ones under random controls.

    Every second trajectory starts from random joint positions, and all have random velocities, so that
    springs, limits and contacts act somewhere. Trajectories that blow up give their initial state.

    Args:
        model: unedited.
        starts: qpos (k, nq) and qvel (k, nv) of initial states.
        n: how many states, of which the first k are the initial ones.
        rng: draws the rest.
    """
    data, qpos, qvel, touching = mujoco.MjData(model), [], [], []
    steps = min(_MOST_STEPS, max(1, round(_SECONDS / model.opt.timestep)))
    for i in range(n):
        initial = i % len(starts[0])
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = starts[0][initial], starts[1][initial]
        if i >= len(starts[0]):
            _disturb(model, data, rng, joints=i % 2 == 0)
            _roll(model, data, rng, steps=round(steps * (i + 1) / n))
        data.qpos[:], data.qvel[:] = np.float32(data.qpos), np.float32(data.qvel)
        qpos.append(data.qpos.copy())
        qvel.append(data.qvel.copy())
        mujoco.mj_forward(model, data)
        touching.append({tuple(sorted(map(int, contact.geom))) for contact in data.contact})
    return States(np.array(qpos), np.array(qvel), touching)


def _disturb(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, *, joints: bool) -> None:
    """Random velocities and, if ``joints``, random positions of the joints that are not free."""
    data.qvel[:] += rng.normal(size=model.nv)
    if not joints:
        return
    for kind, address, limited, bounds in zip(
        model.jnt_type, model.jnt_qposadr, model.jnt_limited, model.jnt_range, strict=True
    ):
        hinge = kind == mujoco.mjtJoint.mjJNT_HINGE
        if kind == mujoco.mjtJoint.mjJNT_SLIDE or hinge:
            reach = (
                (bounds - data.qpos[address]) if limited else np.array([-1.0, 1.0]) * (1.0 if hinge else 0.1)
            )
            data.qpos[address] += 1.1 * rng.uniform(*reach)


def _roll(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, steps: int) -> None:
    """Steps under random controls; keeps the state from which it would blow up."""
    size = mujoco.mj_stateSize(model, _FULL)
    initial, now = np.empty(size), np.empty(size)
    mujoco.mj_getState(model, data, initial, _FULL)
    for step in range(steps):
        if step % 20 == 0:
            data.ctrl[:] = controls(model, model.actuator_ctrlrange, 1, rng)[0]
        mujoco.mj_step(model, data)
    mujoco.mj_getState(model, data, now, _FULL)
    if not sound(data) or any(warning.number for warning in data.warning):
        mujoco.mj_setState(model, data, initial, _FULL)


def sound(data: mujoco.MjData) -> bool:
    """Whether positions and velocities are finite and have not blown up."""
    both = np.concatenate([data.qpos, data.qvel])
    return bool(np.isfinite(both).all() and (abs(both) < BLOWN_UP).all())


class Stepped(NamedTuple):
    """What a control step gave: numbers by name (qpos, qvel, act and more), and whether it is sound."""

    numbers: Mapping[str, np.ndarray]
    sound: bool


_SEEN = ("qpos", "qvel", "act", "qacc", "sensordata", "plastic")


def step(
    model: mujoco.MjModel,
    qpos: np.ndarray,
    qvel: np.ndarray,
    ctrls: np.ndarray,
    frame_skip: int,
    readings: Sequence[str] = (),
    resets: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> list[Stepped]:
    """Control steps of an edited model; all but positions and velocities is as after a reset.

    Args:
        model: edited.
        qpos: (nq,).
        qvel: (nv,).
        ctrls: (T, nu), not clamped: MuJoCo does that.
        frame_skip: physics steps per control step.
        readings: further fields of MuJoCo's data to return.
        resets: fields of the data to overwrite before each control step, or None.

    Raises:
        Invalid: if MuJoCo refuses to step.
    """
    data, out = mujoco.MjData(model), []
    data.qpos[:], data.qvel[:] = qpos, qvel
    try:
        for t, ctrl in enumerate(ctrls):
            for name, value in (resets[t] if resets else {}).items():
                getattr(data, name)[...] = value
            data.ctrl[:] = ctrl
            for _ in range(frame_skip):
                mujoco.mj_step(model, data)
            for compute in {readings_.ON_REQUEST[name] for name in readings if name in readings_.ON_REQUEST}:
                compute(model, data)
            names = [name for name in (*_SEEN, *readings) if hasattr(data, name)]
            numbers = {name: np.array(getattr(data, name), float) for name in names}
            out.append(Stepped(numbers, sound(data) and not any(w.number for w in data.warning)))
    except (mujoco.FatalError, ValueError) as error:
        raise Invalid(_one_line(error)) from None
    return out


def difference(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any number, relative to 1 plus its size; infinite where one is NaN."""
    largest = 0.0
    for name, value in one.items():
        gap = abs(value - other[name]) / (1 + abs(value))
        if gap.size:
            largest = max(largest, np.inf if np.isnan(gap).any() else float(gap.max()))
    return largest
