"""Physics engines behind one small interface (see ``base``)."""

from __future__ import annotations

import difflib
from typing import get_args

import jax
import mujoco
from mujoco.batch import DATA_FIELDS

from roml_jax.envs.physics import mjx, mujoco_c
from roml_jax.envs.physics.base import (
    Contacts,
    Derived,
    EngineName,
    ModelLeaves,
    Physics,
    PhysicsState,
    field_of,
    is_inert,
)
from roml_jax.errors import unknown

_MJX = {"mjx": mjx.make, "warp": mjx.make_warp}


def resolve(engine: EngineName) -> str:
    """The engine that "auto" stands for: MJX on accelerators; on a CPU the C engine, many times faster."""
    if engine != "auto":
        return engine
    return "mujoco" if jax.default_backend() == "cpu" else "mjx"


def make(
    engine: EngineName,
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
    contacts: Contacts = "right",
) -> Physics:
    """An engine by name, for a compiled model; arguments as ``mjx.make``'s.

    ``contacts`` is the C engine's: "reference" keeps the unedited model's ``geom_rbound``, as the published
    code did, so that a thickened geom misses contacts.

    Raises:
        ValueError: for a name that is none, readings that MuJoCo does not have, a model with state that
            an episode would not carry, or the reference's contacts on another engine than C; one line.
    """
    if engine not in get_args(EngineName):
        raise unknown("engine", engine, get_args(EngineName))
    if derived not in get_args(Derived):
        raise unknown("choice of derived", derived, get_args(Derived))
    if contacts not in get_args(Contacts):
        raise unknown("choice of contacts", contacts, get_args(Contacts))
    for name in readings:
        if name not in DATA_FIELDS:
            near = difflib.get_close_matches(name, DATA_FIELDS, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"MuJoCo's data has no field {name!r} to read{hint}")
    if getattr(model, "nhistory", 0):
        raise ValueError("delays of actuators and sensors are not supported: episodes carry no history")
    chosen = resolve(engine)
    if chosen == "mujoco":
        return mujoco_c.make(model, frame_skip, readings, derived, contacts)
    if contacts == "reference":
        raise ValueError(
            f"contacts=reference needs the engine 'mujoco': {chosen!r} has no filter of bounding radii that "
            "could miss a contact"
        )
    return _MJX[chosen](model, frame_skip, readings, derived)


__all__ = [
    "Contacts",
    "Derived",
    "EngineName",
    "ModelLeaves",
    "Physics",
    "PhysicsState",
    "field_of",
    "is_inert",
    "make",
    "resolve",
]
