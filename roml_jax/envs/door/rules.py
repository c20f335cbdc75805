"""Edits that MuJoCo does not read, with the reason and the cure, and values that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from roml_jax.envs.door import contacts
from roml_jax.envs.edits import DIRECTIONS
from roml_jax.envs.physics import compiled_flags
from roml_jax.envs.physics.base import actuator_of, field_of, is_inert

_KINDS = {
    "body": mujoco.mjtObj.mjOBJ_BODY, "geom": mujoco.mjtObj.mjOBJ_GEOM, "site": mujoco.mjtObj.mjOBJ_SITE,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT, "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON, "eq": mujoco.mjtObj.mjOBJ_EQUALITY,
    "pair": mujoco.mjtObj.mjOBJ_PAIR, "cam": mujoco.mjtObj.mjOBJ_CAMERA, "light": mujoco.mjtObj.mjOBJ_LIGHT,
    "mat": mujoco.mjtObj.mjOBJ_MATERIAL, "sensor": mujoco.mjtObj.mjOBJ_SENSOR,
}  # fmt: skip
_TYPES = mujoco.mjtGeom
# Number of columns of geom_size that a type of geom reads.
_SIZES = {int(_TYPES.mjGEOM_SPHERE): 1, int(_TYPES.mjGEOM_CAPSULE): 2, int(_TYPES.mjGEOM_CYLINDER): 2}
_SHAPES = {
    int(
        _TYPES.mjGEOM_MESH
    ): "a mesh's shape is its vertices, and geom_size only describes it; scale the mesh in the model",
    int(_TYPES.mjGEOM_SDF): "an SDF's shape is its plugin's; change that in the model",
    int(_TYPES.mjGEOM_HFIELD): "a height field's size is that of its asset; change hfield_size in the model",
    int(_TYPES.mjGEOM_PLANE): "a plane is infinite, and its size is for rendering only",
}
# A field is read only where another field is not zero.
_NEEDS = {
    "dof_solref": "dof_frictionloss", "dof_solimp": "dof_frictionloss",
    "tendon_solref_fri": "tendon_frictionloss", "tendon_solimp_fri": "tendon_frictionloss",
    "tendon_lengthspring": "tendon_stiffness", "qpos_spring": "jnt_stiffness",
    "jnt_springyield": "jnt_stiffness", "tendon_springyield": "tendon_stiffness",
}  # fmt: skip
_POSITIVE = ("body_inertia", "geom_size", "opt.impratio")
_NOT_NEGATIVE = (
    "body_mass", "dof_damping", "dof_armature", "dof_frictionloss", "jnt_stiffness", "geom_friction",
    "pair_friction", "tendon_damping", "tendon_stiffness", "tendon_frictionloss", "tendon_armature",
    "actuator_armature", "actuator_damping", "opt.density", "opt.viscosity",
)  # fmt: skip
_RANGES = (
    "jnt_range", "jnt_actfrcrange", "actuator_ctrlrange", "actuator_forcerange", "actuator_actrange",
    "tendon_range", "tendon_actfrcrange",
)  # fmt: skip
_DELAYS = {"actuator_delay": "actuator_history", "sensor_delay": "sensor_history"}


class Change(NamedTuple):
    """An edit, as values of its field.

    Attributes:
        dimension: name of the task dimension.
        field: of the model.
        mask: the entries that the edit changes, of the field's shape.
        low: the field's values at the low end of the dimension.
        high: the same at its high end.
        listed: whether the edit names its rows; otherwise it is of all rows.
        inert: whether the dimension is declared to leave the simulation as it is.
    """

    dimension: str
    field: str
    mask: np.ndarray
    low: np.ndarray
    high: np.ndarray
    listed: bool
    inert: bool

    @property
    def rows(self) -> list[int]:
        """The rows that change; empty for a single number."""
        if not self.mask.ndim:
            return []
        return np.flatnonzero(self.mask.any(axis=tuple(range(1, self.mask.ndim)))).tolist()


def described(model: mujoco.MjModel, change: Change, rows: Sequence[int] | None = None) -> str:
    """The field and the names of its rows: ``geom_friction of 'box'``."""
    rows = change.rows if rows is None else rows
    if not rows or not (change.listed or len(rows) < 4):
        return change.field
    shown = ", ".join(row_name(model, change.field, row) for row in rows[:3])
    return f"{change.field} of {shown}{f' and {len(rows) - 3} more' if len(rows) > 3 else ''}"


def row_name(model: mujoco.MjModel, field: str, row: int) -> str:
    """The name of a row's object in quotes, or its number."""
    prefix = field.split("_")[0]
    if prefix == "dof":
        prefix, row = "jnt", int(model.dof_jntid[row])
    if prefix == "actuator":
        row = actuator_of(model, field, row)
    if prefix in ("qpos", "qpos0"):
        prefix, row = "jnt", int(np.searchsorted(model.jnt_qposadr, row, side="right")) - 1
    return contacts.name_of(model, _KINDS[prefix], row) if prefix in _KINDS else f"row {row}"


def dead_rows(model: mujoco.MjModel, change: Change) -> dict[str, list[int]]:
    """Rows of an edit that the simulation does not read, by reason."""
    reasons: dict[str, list[int]] = {}
    for row in change.rows:
        reason = _why(model, change, row)
        if reason:
            reasons.setdefault(reason, []).append(row)
    return reasons


def why_dead(model: mujoco.MjModel, change: Change) -> str | None:
    """Why an edit changes nothing, with the cure; None if no reason is known from the model."""
    field = change.field
    if field == "geom_rbound":
        return "MuJoCo computes it from other fields; edit geom_size"
    if is_inert(field):
        return "the field is for rendering only"
    if not change.mask.any() and field in DIRECTIONS:
        return "it leaves the direction as it is, and its length is 1"
    if not change.mask.any():
        return "the original values are 0, and 0 times the task is 0; use how='add' or 'set'"
    reasons = dead_rows(model, change)
    if reasons and sum(map(len, reasons.values())) == len(change.rows):
        return next(iter(reasons))
    return None


def _why(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    """Why the simulation does not read a row of a field, with the cure; None if it may."""
    field, prefix = change.field, change.field.split("_")[0]
    if prefix == "geom" and field.removeprefix("geom_") in contacts.PARAMETERS:
        return contacts.dead_geom(model, field, row, change.low, change.high)
    special = _SPECIAL.get(field)
    if special:
        return special(model, change, row)
    read = compiled_flags.rows_read(model, field)
    if read is not None and not read[0][row]:
        return f"the compiled model has no {read[1]} there"
    if field in _NEEDS and not np.any(_value_beside(model, field, row)):
        return f"{_NEEDS[field]} is 0 there"
    return None


def _value_beside(model: mujoco.MjModel, field: str, row: int) -> np.ndarray:
    """The value of the field that ``field`` needs, for the same object."""
    if field == "qpos_spring":
        row = int(np.searchsorted(model.jnt_qposadr, row, side="right")) - 1
    return getattr(model, _NEEDS[field])[row]


def _pose_of_body(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    if row == 0:
        return "the world does not move"
    joints = model.jnt_type[model.body_jntadr[row] :][: model.body_jntnum[row]]
    if (joints == mujoco.mjtJoint.mjJNT_FREE).any():
        return "the body has a free joint, so its pose is in qpos; set it in start"
    return None


def _size_of_geom(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    kind = int(model.geom_type[row])
    if kind in _SHAPES:
        return _SHAPES[kind]
    used = _SIZES.get(kind, 3)
    if not change.mask[row, :used].any():
        shape = _TYPES(kind).name.removeprefix("mjGEOM_").lower()
        return f"a {shape} reads only the first {used} column{'s' if used > 1 else ''}"
    return _massless_part(model, change, row)


def _massless_part(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    touch = contacts.partners(model, row)
    if touch.dynamic or touch.pairs or model.opt.density or model.opt.viscosity:
        return None
    moves = "body_mass and body_inertia" if change.field == "geom_size" else "body_ipos and body_iquat"
    return f"the geom touches nothing, and {change.field} changes no mass; edit {moves}"


def _mass_of_body(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    return "the body cannot move" if model.body_treeid[row] < 0 else None


def _part_of_joint(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    if model.jnt_type[row] == mujoco.mjtJoint.mjJNT_FREE:
        return "a free joint has no axis and no anchor"
    if change.field == "jnt_axis" and model.jnt_type[row] == mujoco.mjtJoint.mjJNT_BALL:
        return "a ball joint has no axis"
    return None


def _wind(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    return None if model.opt.density or model.opt.viscosity else "opt.density and opt.viscosity are 0"


def _dynamics(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    none = model.actuator_dyntype[row] == mujoco.mjtDyn.mjDYN_NONE
    return "the actuator has no dynamics (dyntype none)" if none else None


def _bias(model: mujoco.MjModel, change: Change, row: int) -> str | None:
    none = model.actuator_biastype[row] == mujoco.mjtBias.mjBIAS_NONE
    return "the actuator has no bias (biastype none)" if none else None


_SPECIAL: dict[str, Callable[[mujoco.MjModel, Change, int], str | None]] = {
    "body_pos": _pose_of_body, "body_quat": _pose_of_body, "geom_size": _size_of_geom,
    "geom_pos": _massless_part,
    "geom_quat": _massless_part,
    "body_mass": _mass_of_body, "body_inertia": _mass_of_body, "body_ipos": _mass_of_body,
    "body_iquat": _mass_of_body, "jnt_axis": _part_of_joint, "jnt_pos": _part_of_joint,
    "opt.wind": _wind, "actuator_dynprm": _dynamics, "actuator_biasprm": _bias,
}  # fmt: skip


def impossible(model: mujoco.MjModel, change: Change) -> list[tuple[bool, str]]:
    """Values at the ends of an edit that cannot be: whether each is an error, and what it is."""
    for end, value in (("low", change.low), ("high", change.high)):
        found = impossible_at(model, change, value)
        if found:
            return [(is_error, f"{text} at the {end} end of the range") for is_error, text in found]
    return []


def impossible_at(model: mujoco.MjModel, change: Change, value: np.ndarray) -> list[tuple[bool, str]]:
    """Why a value (the field's shape) cannot be: whether each reason is an error, and what it is."""
    field, base = change.field, field_of(model, change.field)
    # values that the edit leaves as they are in the model are MuJoCo's business
    new = change.mask & (value != base)
    if not np.isfinite(value[change.mask]).all():
        return [(True, f"{field} is not finite")]
    wrong = new & (value < 0) if field in _NOT_NEGATIVE else np.zeros_like(new)
    if field in _POSITIVE or field == "body_mass":
        used = new & (base > 0)
        wrong = wrong | (used & (value <= 0) & _must_be_positive(model, field, value.shape))
    if wrong.any():
        return [(True, _shown(model, change, value, wrong))]
    if field in _DELAYS and (text := _too_late(model, field, new, value)):
        return [(True, text)]
    if field in _RANGES:
        read = compiled_flags.rows_read(model, field)
        flag = np.ones(len(value), bool) if read is None else read[0]
        empty = flag & new.any(axis=-1) & (value[:, 0] >= value[:, 1]) & (base[:, 0] < base[:, 1])
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            return [(True, f"{field} of {row_name(model, field, row)} is empty: {value[row].tolist()}")]
    if field == "body_inertia":
        a, b, c = np.moveaxis(np.sort(value), -1, 0)
        unreal = new.any(axis=-1) & (a + b < c * (1 - 1e-6))
        if unreal.any():
            row = int(np.flatnonzero(unreal)[0])
            name, numbers = row_name(model, field, row), [float(f"{x:.4g}") for x in value[row]]
            return [
                (False, f"body_inertia of {name} is {numbers}: no body has one larger than the others' sum")
            ]
    return []


def _too_late(model: mujoco.MjModel, field: str, new: np.ndarray, value: np.ndarray) -> str | None:
    """A delay beyond its buffer, which MuJoCo would cut to the length of the buffer without a word."""
    longest = getattr(model, _DELAYS[field])[:, 0] * model.opt.timestep
    late = np.flatnonzero(new & (value > longest * (1 + 1e-5)) & (longest > 0))
    if not late.size:
        return None
    row, steps = int(late[0]), int(np.ceil(value[late].max() / model.opt.timestep - 1e-3))
    return (
        f"{field} of {row_name(model, field, row)} is {value[row]:.4g} s and its buffer holds "
        f"{longest[row]:.4g} s: give it nsample={steps}"
    )


def _must_be_positive(model: mujoco.MjModel, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """Entries that MuJoCo's compiler wants to be positive."""
    must = np.ones(shape, bool)
    if field == "geom_size":
        for row, kind in enumerate(model.geom_type.tolist()):
            must[row, _SIZES.get(kind, 3) :] = False
            must[row] &= kind not in _SHAPES
    elif field.startswith("body_"):
        moving = (model.body_dofnum > 0) & (model.body_weldid > 0)
        must = np.broadcast_to(moving.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
    return must


def _shown(model: mujoco.MjModel, change: Change, value: np.ndarray, wrong: np.ndarray) -> str:
    least = float(value[wrong].min())
    below = "must not be negative" if least < 0 and change.field in _NOT_NEGATIVE else "must be positive"
    if not value.ndim:
        return f"{change.field} is {least:g} and {below}"
    row = int(np.argwhere(wrong & (value == value[wrong].min()))[0][0])
    name = "" if change.field.startswith("opt.") else f" of {row_name(model, change.field, row)}"
    return f"{change.field}{name} is {least:.4g} and {below}"
