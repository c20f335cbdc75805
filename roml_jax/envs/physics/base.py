"""The interface between environments and physics engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import mujoco
import numpy as np

from roml_jax.types import Array

ModelLeaves = Mapping[str, Array]
"""Model fields that a task replaces, by their MuJoCo names; all others keep the unedited model's values."""

Given = Mapping[str, Array] | None
"""Parts of an episode's first state, and controls, by their names in MuJoCo's data."""

EngineName = Literal["auto", "mjx", "mujoco", "warp"]
Derived = Literal["stale", "consistent"]
Contacts = Literal["right", "reference"]

# Fields for rendering, and the bounding radii that the C engine culls contacts with, which are computed from
# the geometry. A task may edit these fields, but the edits have no effect on the simulation.
_INERT = (
    "cam_", "light_", "mat_", "tex_", "skin_", "geom_rgba", "site_rgba", "tendon_rgba", "tendon_width",
    "flex_rgba", "geom_rbound",
)  # fmt: skip


class PhysicsState(NamedTuple):
    """The state that the next step depends on, and the fields that observations and rewards read.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        act: (na,) actuator activations.
        qacc_warmstart: (nv,) initial value of the constraint solver.
        readings: the requested fields of MuJoCo's data, from the last physics substep without an extra
            forward pass. Positions among them therefore lag qpos by one substep (under RK4, by the last
            stage), as in the reference.
        carried: the other parts of MuJoCo's state that change in an episode of this model, by their names in
            MuJoCo's data (``carried.names``); empty for most models.
    """

    qpos: Array
    qvel: Array
    act: Array
    qacc_warmstart: Array
    readings: Mapping[str, Array]
    carried: Mapping[str, Array] = {}  # JAX takes no other mapping for a tree


class Physics(NamedTuple):
    """An engine for one model. Every function is pure and unbatched; callers vmap them.

    Attributes:
        name: the engine's name.
        model: the unedited model, solver settings included.
        frame_skip: physics steps per control step.
        prepare: (leaves) -> leaves; drops edits without effect and adds the fields that depend on the other
            edits; called once per reset.
        reset: (qpos, qvel, leaves, given) -> PhysicsState, with readings computed at these positions.
            ``given``, which may be left out, are other parts of the state and the controls, by their names in
            MuJoCo's data; the rest is as MuJoCo's reset leaves it for the task's model.
        step: (state, ctrl (nu,), leaves, frozen, given) -> PhysicsState after ``frame_skip`` physics steps.
            ``frozen`` () bool, by default False: the result is not used, so the engine need not compute it.
            ``given``, which may be left out, are forces and poses of mocap bodies that hold during these
            steps, by their names in MuJoCo's data (``xfrc_applied``, ``mocap_pos``).
        field: (name, leaves) -> the value of a model field that is not among the leaves, under their task.
        derived: whether the fields that depend on a task's edits are recomputed.
        contacts: whether all contacts of a geom that a task thickens are found.
    """

    name: str
    model: mujoco.MjModel
    frame_skip: int
    prepare: Callable[[ModelLeaves], ModelLeaves]
    reset: Callable[..., PhysicsState]
    step: Callable[..., PhysicsState]
    field: Callable[[str, ModelLeaves], Array]
    derived: Derived = "stale"
    contacts: Contacts = "right"

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.frame_skip * self.model.opt.timestep


def field_of(model: mujoco.MjModel, name: str) -> np.ndarray:
    """The values of a model field, or of a field of a part (``opt.gravity``).

    Raises:
        AttributeError: if the model has no such field.
    """
    value = model
    for part in name.split("."):
        value = getattr(value, part)
    return np.asarray(value)


_PER_CONTROL = ("actuator_ctrllimited", "actuator_ctrlrange")
_PER_OUTPUT = ("actuator_acc0", "actuator_gear", "actuator_length0", "actuator_lengthrange")


def _first_rows(model: mujoco.MjModel, field: str) -> np.ndarray:
    """The first row of each actuator in a field: some fields have a row per control, or per output."""
    if field in _PER_CONTROL:
        return model.actuator_ctrladr
    if field in _PER_OUTPUT:
        return model.actuator_outadr
    return np.arange(len(model.actuator_trntype))


def rows_of_actuator(model: mujoco.MjModel, field: str, actuator: int) -> list[int]:
    """The rows of a field ``actuator_*`` that belong to an actuator: one, unless it has several controls."""
    first = [*_first_rows(model, field).tolist(), len(field_of(model, field))]
    return list(range(first[actuator], first[actuator + 1]))


def actuator_of(model: mujoco.MjModel, field: str, row: int) -> int:
    """The actuator that a row of a field ``actuator_*`` belongs to."""
    return int(np.searchsorted(_first_rows(model, field), row, side="right")) - 1


def write_field(model: mujoco.MjModel, name: str, value: np.ndarray | float) -> None:
    """Writes a field, or a field of a part; single numbers have no array to write into."""
    *parts, last = name.split(".")
    owner = model
    for part in parts:
        owner = getattr(owner, part)
    if np.ndim(getattr(owner, last)):
        getattr(owner, last)[...] = value
    else:
        setattr(owner, last, float(value))


def is_inert(field: str, readings: Iterable[str] = ()) -> bool:
    """Whether a task's edit of the field has no effect on the simulation, nor on what is read of it."""
    if any(field.startswith(kind) for kind in ("cam_", "light_") for name in readings if _shows(name, kind)):
        return False
    return field.startswith(_INERT)


def _shows(reading: str, kind: str) -> bool:
    return reading.startswith(kind) or reading == "sensordata"


def is_unedited(model: mujoco.MjModel, name: str, leaf: Array | np.ndarray) -> bool:
    """Whether a leaf is known, before the program is compiled, to have the unedited model's values."""
    return isinstance(leaf, np.ndarray) and np.array_equal(leaf, field_of(model, name).astype(leaf.dtype))
