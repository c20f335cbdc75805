"""Tasks as edits of a MuJoCo model: named dimensions, each a number that changes model fields.

    TaskDimension("payload", 0.0, 5.0, (Edit("body_mass", "add", "trunk"),))
    TaskDimension("friction", 0.3, 1.5, (Edit("geom_friction", "scale", column=0),), scale="log")

A task is a vector with one number per dimension. Its edits always start from the unedited model's values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax import checks, tasks
from roml_jax.envs.physics import compiled_flags
from roml_jax.envs.physics.base import Derived, ModelLeaves, actuator_of, field_of, rows_of_actuator
from roml_jax.envs.physics.derived import inertia_scaled
from roml_jax.errors import suggestion
from roml_jax.types import Array

How = Literal["scale", "set", "add"]
Scale = Literal["linear", "log"]
Row = int | str

# Columns of quaternions and axes: engines take them to be of length 1, as MuJoCo's compiler makes them.
DIRECTIONS = {
    "body_quat": slice(4), "body_iquat": slice(4), "geom_quat": slice(4), "site_quat": slice(4),
    "jnt_axis": slice(3), "eq_data": slice(6, 10),
}  # fmt: skip
_KINDS = {
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT,
    "dof": mujoco.mjtObj.mjOBJ_JOINT,
    "qpos": mujoco.mjtObj.mjOBJ_JOINT,
    "qpos0": mujoco.mjtObj.mjOBJ_JOINT,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON,
    "eq": mujoco.mjtObj.mjOBJ_EQUALITY,
    "pair": mujoco.mjtObj.mjOBJ_PAIR,
}


@dataclass(frozen=True)
class Edit:
    """The change of one model field by a task's number t.

    Attributes:
        field: a field of ``mujoco.MjModel`` (``body_mass``), or of a part of it (``opt.gravity``).
        how: "scale" multiplies the original value by ``factor * t``, "add" adds ``factor * t`` to it, "set"
            replaces it by ``factor * t``.
        rows: name or index of a body, geom, joint, ..., or a sequence of them; None for all. In ``dof_*``
            fields, the name of a joint selects its degrees of freedom; the name of an actuator selects its
            controls or outputs, where it has several.
        column: column of a field with several (``geom_size``); None for all.
        factor: multiplies t.
    """

    field: str
    how: How = "scale"
    rows: Row | Sequence[Row] | None = None
    column: int | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of(self, f"edit of {self.field}", "how", get_args(How))
        checks.finite(self, f"edit of {self.field}", "factor")


@dataclass(frozen=True)
class TaskDimension:
    """One number of a task.

    Attributes:
        name: of the dimension.
        low: lower end of its range.
        high: upper end of its range.
        edits: its changes of the model; empty for a number that only the reward uses.
        scale: the prior is uniform over the number ("linear") or over its logarithm ("log", for factors).
        hardest: "top" if tasks are known to get harder toward the top of the range.
        inert: declares that the edits may leave the simulation as it is (fields for rendering, or that are 0
            in the model), so that the check of the environment does not report them.
    """

    name: str
    low: float
    high: float
    edits: tuple[Edit, ...] = ()
    scale: Scale = "linear"
    hardest: Literal["top"] | None = None
    inert: bool = False

    def __post_init__(self) -> None:
        checks.one_of(self, f"task {self.name!r}", "scale", get_args(Scale))
        if isinstance(self.edits, Edit):
            raise ValueError(f"edits of task {self.name!r} must be a tuple: (Edit(...),), with a comma")
        if not self.low < self.high or not all(map(math.isfinite, (self.low, self.high))):
            raise ValueError(
                f"task {self.name!r} needs a finite range with low < high, got [{self.low}, {self.high}]"
            )
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"task {self.name!r} on a log scale needs low > 0, got {self.low}")

    def family(self) -> tasks.TaskFamily:
        """The dimension's task family."""
        if self.scale == "linear":
            return tasks.beta(self.name, self.low, self.high, hardest=self.hardest)
        low, high = math.log2(self.low), math.log2(self.high)
        return tasks.log_beta((self.name,), low, high, hardest=self.hardest)


def family(dimensions: Sequence[TaskDimension]) -> tasks.TaskFamily:
    """Independent dimensions as one family.

    Raises:
        ValueError: for no dimensions, or two with the same name.
    """
    names = [dimension.name for dimension in dimensions]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"tasks need one distinct name per dimension, got {names}")
    if len(dimensions) == 1:
        return dimensions[0].family()
    low, high, scale = dimensions[0].low, dimensions[0].high, dimensions[0].scale
    if scale == "log" and all((d.low, d.high, d.scale) == (low, high, scale) for d in dimensions):
        # equal to the product below, but in one array, so that ten factors compile as fast as one
        return tasks.log_beta(names, math.log2(low), math.log2(high))
    return tasks.product({dimension.name: dimension.family() for dimension in dimensions})


def _rows(model: mujoco.MjModel, edit: Edit, row: Row) -> list[int]:
    """The rows of a field for an index or a name.

    Raises:
        ValueError: for an index or a name that the model does not have; one line, with the nearest name.
    """
    count = field_of(model, edit.field).shape[0]
    if not isinstance(row, str):
        if not -count <= row < count:
            raise ValueError(f"{edit.field} has {count} rows; row {row} does not exist")
        return [row % count]
    prefix = edit.field.split("_")[0]
    if prefix not in _KINDS:
        raise ValueError(f"rows of {edit.field} have no names; use an index instead of {row!r}")
    kind = _KINDS[prefix]
    index = mujoco.mj_name2id(model, kind, row)
    if index < 0:
        kinds = mujoco.mjtObj
        total = {kinds.mjOBJ_JOINT: model.njnt, kinds.mjOBJ_ACTUATOR: len(model.actuator_trntype)}
        valid = [name for i in range(total.get(kind, count)) if (name := mujoco.mj_id2name(model, kind, i))]
        what, has = kind.name.removeprefix("mjOBJ_").lower(), ", ".join(valid) or "none with a name"
        raise ValueError(f"the model has no {what} named {row!r}{suggestion(str(row), valid)} (it has {has})")
    if prefix == "actuator":
        return rows_of_actuator(model, edit.field, index)
    if prefix not in ("dof", "qpos", "qpos0"):
        return [index]
    address = model.jnt_dofadr if prefix == "dof" else model.jnt_qposadr
    end = address[index + 1] if index + 1 < model.njnt else count
    return list(range(address[index], end))


def _original(model: mujoco.MjModel, field: str) -> np.ndarray:
    """A field's unedited values.

    Raises:
        ValueError: for a field that the model does not have or that no task can edit; one line.
    """
    try:
        original = field_of(model, field)
    except AttributeError:
        original = np.asarray(None)
    if original.dtype.kind not in "fiub":  # not a numeric array: a method or a part of the model
        valid = [*dir(model), *(f"opt.{name}" for name in dir(model.opt))]
        raise ValueError(f"a model has no field {field!r}{suggestion(field, valid)}") from None
    if original.dtype.kind != "f" or field == "opt.timestep":
        raise ValueError(f"a task cannot edit {field}: it is constant in the compiled program")
    return original


def _mask(model: mujoco.MjModel, edit: Edit) -> np.ndarray:
    """The entries of the field that an edit changes, as a bool array of its shape."""
    original = _original(model, edit.field)
    mask = np.zeros(original.shape, bool)
    if original.ndim == 0 and (edit.rows is not None or edit.column is not None):
        raise ValueError(f"{edit.field} is a single number: it has no rows or columns")
    given: Any = edit.rows
    rows = [given] if np.ndim(given) == 0 else given
    where = ... if edit.rows is None else sorted({i for row in rows for i in _rows(model, edit, row)})
    if edit.column is None:
        mask[where] = True
    elif original.ndim < 2 or not 0 <= edit.column < original.shape[1]:
        raise ValueError(f"{edit.field} of shape {original.shape} has no column {edit.column}")
    else:
        mask[slice(None) if where is ... else where, edit.column] = True
    if edit.rows is not None and not mask.any():
        raise ValueError(f"an edit of {edit.field} has an empty list of rows")
    return mask


def _changes(model: mujoco.MjModel, edit: Edit, edited: np.ndarray) -> np.ndarray:
    """The entries of the field that an edit can change, as a bool array of its shape.

    Args:
        model: the unedited model.
        edit: the edit.
        edited: entries that earlier edits of this field may have changed.

    Returns:
        The entries of the edit, without those that are 0 and stay so when they are scaled.

    Raises:
        ValueError: if rows that the edit names, or all rows of a whole field, are not read; one line.
    """
    mask = _mask(model, edit)
    if edit.how == "scale":
        mask = mask & ((field_of(model, edit.field) != 0) | edited)
    where = compiled_flags.rows_read(model, edit.field)
    if where is None or not mask.any():
        return mask
    read, lacks = where
    touched = mask.reshape(len(mask), -1).any(-1)
    unread = np.flatnonzero(touched & ~read)
    if unread.size and (edit.rows is not None or not (touched & read).any()):
        prefix, row = edit.field.split("_")[0], int(unread[0])
        index = actuator_of(model, edit.field, row) if prefix == "actuator" else row
        name = mujoco.mj_id2name(model, _KINDS.get(prefix, mujoco.mjtObj.mjOBJ_SENSOR), index) or row
        raise ValueError(
            f"an edit of {edit.field} of {name!r} would do nothing: the compiled model has no {lacks} there"
        )
    return mask


def edited_entries(model: mujoco.MjModel, dimensions: Sequence[TaskDimension]) -> dict[str, np.ndarray]:
    """The entries that tasks can change, by field, as bool arrays of the fields' shapes.

    A field whose edits change nothing, as they scale zeros, is left out.

    Raises:
        ValueError: as ``make_apply_task``.
    """
    entries: dict[str, np.ndarray] = {}
    for dimension in dimensions:
        for edit in dimension.edits:
            before = entries.get(edit.field, np.zeros((), bool))
            entries[edit.field] = before | _changes(model, edit, before)
    return {field: mask for field, mask in entries.items() if mask.any()}


def _unit(values: Array, columns: slice, rows: Any) -> Array:
    """A field (n, m) whose directions in some columns have length 1 in the rows (n,) bool; 0 stays 0."""
    part = values[:, columns]
    length = jnp.linalg.norm(part, axis=1, keepdims=True)
    scaled = part / jnp.where(length > 0, length, 1.0)
    return values.at[:, columns].set(jnp.where(rows[:, None], scaled, part))


def make_apply_task(
    model: mujoco.MjModel, dimensions: Sequence[TaskDimension], derived: Derived = "consistent"
) -> Callable[[Array], ModelLeaves]:
    """Makes the function (task (d,)) -> the model fields that the task replaces.

    Edits of the same field are applied in order, dimension by dimension. The function is pure, so a new task
    at every reset needs no compilation. A field whose edits change nothing, as they scale zeros, is a NumPy
    array of the unedited values, so that an engine knows it before the program is compiled. Edited
    quaternions and axes are scaled to length 1, as MuJoCo's compiler does.

    Engines scale all inertias with the masses if no task edits an inertia. If tasks edit those of some
    bodies, the others are scaled here with ``derived="consistent"``.

    Raises:
        ValueError: for a field, row or column that the model does not have, a field that no task can edit, or
            rows that the compiled model does not read; one line.
    """
    steps = [
        (index, edit, _mask(model, edit))
        for index, dimension in enumerate(dimensions)
        for edit in dimension.edits
    ]
    changed = edited_entries(model, dimensions)
    originals = {edit.field: field_of(model, edit.field) for _, edit, _ in steps}
    steps = [step for step in steps if step[1].field in changed]
    directions = {
        name: changed[name][:, DIRECTIONS[name]].any(axis=1) for name in DIRECTIONS.keys() & changed
    }
    if "eq_data" in directions:  # of welds; other constraints have other data there
        directions["eq_data"] &= np.asarray(model.eq_type) == int(mujoco.mjtEq.mjEQ_WELD)
    said = changed.get("body_inertia", np.zeros((model.nbody, 3), bool)).any(axis=1, keepdims=True)
    follows = derived == "consistent" and {"body_mass", "body_inertia"} <= set(originals) and not said.all()

    def apply_task(task: Array) -> ModelLeaves:
        leaves: dict[str, Any] = {
            name: (jnp if name in changed else np).asarray(value, task.dtype)
            for name, value in originals.items()
        }
        for index, edit, mask in steps:
            number, old = edit.factor * task[index], leaves[edit.field]
            new = {"scale": old * number, "add": old + number, "set": number}[edit.how]
            leaves[edit.field] = jnp.where(mask, new, old)
        for name, rows in directions.items():
            leaves[name] = _unit(leaves[name], DIRECTIONS[name], rows)
        if follows:
            mass, inertia = originals["body_mass"], originals["body_inertia"]
            scaled = inertia_scaled(jnp.asarray(mass), jnp.asarray(inertia), leaves["body_mass"])
            leaves["body_inertia"] = jnp.where(said, leaves["body_inertia"], scaled.astype(task.dtype))
        return leaves

    return apply_task


def widest(
    apply_task: Callable[[Array], ModelLeaves], tasks_of: tasks.TaskFamily, field: str
) -> Mapping[str, np.ndarray]:
    """A field of ranges (n, 2) whose rows contain those of all tasks, by its name; empty if no task edits it.

    Edits are linear in each number of a task, so the extremes are at the corners of the tasks' ranges.
    """
    low, high = (np.array(ends, np.float32) for ends in zip(*tasks_of.ranges, strict=True))
    with jax.ensure_compile_time_eval():

        def of(task: np.ndarray) -> np.ndarray:
            return np.asarray(apply_task(jnp.asarray(task))[field])

        if field not in jax.eval_shape(apply_task, low):
            return {}
        middle = np.where(np.isfinite(high), (low + high) / 2, np.maximum(low, 1.0))
        swapped = [np.where(np.arange(len(low)) == i, low, middle) for i in range(len(low))]
        matters = [i for i, task in enumerate(swapped) if not np.array_equal(of(task), of(middle))]
        corners = []
        for ends in itertools.product((low, high), repeat=len(matters)):
            task = middle.copy()
            for i, end in zip(matters, ends, strict=True):
                task[i] = end[i]
            corners.append(of(task))
        both = np.stack(corners)
        return {field: np.stack([both[..., 0].min(0), both[..., 1].max(0)], -1)}
