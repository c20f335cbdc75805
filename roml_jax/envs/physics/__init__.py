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

_ENGINES = {"mjx": mjx.make, "mujoco": mujoco_c.make, "warp": mjx.make_warp}


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
) -> Physics:
    """An engine by name, for a compiled model; arguments as ``mjx.make``'s."""
    return _ENGINES[resolve(engine)](model, frame_skip, readings, derived)


__all__ = [
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
