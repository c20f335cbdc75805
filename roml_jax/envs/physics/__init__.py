"""Physics engines behind a small common interface (see ``base``)."""

from __future__ import annotations

from typing import get_args

import jax
import mujoco

from roml_jax.envs.physics import carried, mjx, mujoco_c
from roml_jax.envs.physics import readings as reading
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
    """The engine for a name: "auto" is MJX on accelerators and the C engine, many times faster, on a CPU."""
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
    """Makes an engine by name, for a compiled model; the other arguments are those of ``mjx.make``.

    ``contacts`` applies to the C engine: "reference" keeps the unedited model's ``geom_rbound``, as the
    published code does, so that some contacts of a thickened geom are missed.

    Raises:
        ValueError: for an unknown name, readings that the engine does not have, a model with state that an
            episode cannot carry, or ``contacts="reference"`` on an engine other than C; one line.
    """
    if engine not in get_args(EngineName):
        raise unknown("engine", engine, get_args(EngineName))
    if derived not in get_args(Derived):
        raise unknown("choice of derived", derived, get_args(Derived))
    if contacts not in get_args(Contacts):
        raise unknown("choice of contacts", contacts, get_args(Contacts))
    reading.check(readings)
    carried.check(model)
    chosen = resolve(engine)
    if chosen == "mujoco":
        made = mujoco_c.make(model, frame_skip, readings, derived, contacts)
        return made._replace(derived=derived, contacts=contacts)
    if contacts == "reference":
        raise ValueError(
            f"contacts=reference needs the engine 'mujoco': {chosen!r} has no filter of bounding radii that "
            "misses contacts"
        )
    return _MJX[chosen](model, frame_skip, readings, derived)._replace(derived=derived)


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
