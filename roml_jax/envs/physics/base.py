"""What an environment may ask of a physics engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import mujoco
import numpy as np

from roml_jax.types import Array

ModelLeaves = Mapping[str, Array]
"""Model fields that a task replaces, by their MuJoCo names; all others stay the model's own."""

EngineName = Literal["auto", "mjx", "mujoco", "warp"]
Derived = Literal["stale", "consistent"]
Contacts = Literal["right", "reference"]

# A renderer's fields, and the radii that the C engine culls contacts with, which must follow the geometry:
# a task may edit them, but they decide nothing.
_INERT = ("cam_", "light_", "mat_", "tex_", "skin_", "geom_rgba", "site_rgba", "geom_rbound")


class PhysicsState(NamedTuple):
    """As much of a simulation as its next step depends on, and what an observation reads.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        act: (na,) actuator activations.
        qacc_warmstart: (nv,) where the constraint solver starts.
        readings: the fields of MuJoCo's data that the engine was asked for. They are as the last
            physics substep left them, without an extra forward pass, so positions among them lag
            qpos by one substep (by the last stage under RK4): the reference's behaviour.
    """

    qpos: Array
    qvel: Array
    act: Array
    qacc_warmstart: Array
    readings: Mapping[str, Array]


class Physics(NamedTuple):
    """An engine for one model; every function is pure and unbatched, callers vmap them.

    Attributes:
        name: the engine's.
        model: the unedited model, solver settings included.
        frame_skip: physics steps per control step.
        prepare: (leaves) -> leaves, what the engine keeps of a task's edits, with what it derives
            from them; once per reset.
        reset: (qpos, qvel, leaves) -> PhysicsState, with readings computed at those positions.
        step: (state, ctrl (nu,), leaves) -> PhysicsState after ``frame_skip`` physics steps.
    """

    name: str
    model: mujoco.MjModel
    frame_skip: int
    prepare: Callable[[ModelLeaves], ModelLeaves]
    reset: Callable[[Array, Array, ModelLeaves], PhysicsState]
    step: Callable[[PhysicsState, Array, ModelLeaves], PhysicsState]

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.frame_skip * self.model.opt.timestep


def field_of(model: mujoco.MjModel, name: str) -> np.ndarray:
    """The values of a model field; ``opt.gravity`` and the like for those of a part.

    Raises:
        AttributeError: if the model has no such field.
    """
    value = model
    for part in name.split("."):
        value = getattr(value, part)
    return np.asarray(value)


def is_inert(field: str) -> bool:
    """Whether a field decides nothing in a simulation."""
    return field.startswith(_INERT)
