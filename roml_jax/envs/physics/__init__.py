"""Physics engines behind one small interface (see ``base``)."""

from __future__ import annotations

import jax
import mujoco

from roml_jax.envs.physics import mjx, mujoco_c
from roml_jax.envs.physics.base import (
    Derived,
    EngineName,
    ModelLeaves,
    Physics,
    PhysicsState,
    field_of,
    is_inert,
)

_ENGINES = {"mjx": mjx.make, "mujoco": mujoco_c.make}


def make(
    engine: EngineName,
    model: mujoco.MjModel,
    frame_skip: int,
    readings: tuple[str, ...] = (),
    derived: Derived = "stale",
) -> Physics:
    """An engine by name; "auto" is MJX on accelerators and the C engine, many times faster there, on a CPU."""
    if engine == "auto":
        engine = "mujoco" if jax.default_backend() == "cpu" else "mjx"
    return _ENGINES[engine](model, frame_skip, readings, derived)


__all__ = [
    "Derived",
    "EngineName",
    "ModelLeaves",
    "Physics",
    "PhysicsState",
    "field_of",
    "is_inert",
    "make",
]
