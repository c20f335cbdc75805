"""What an environment may ask of a physics engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from roml_jax.types import Array

ModelLeaves = Mapping[str, Array]
"""Model fields that a task replaces, by their MuJoCo names; all others stay the model's own."""


class PhysicsState(NamedTuple):
    """As much of a simulation as its next step depends on, and what an observation reads.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        qacc_warmstart: (nv,) where the constraint solver starts.
        readings: the fields that the engine was asked for, in that order. They are as the last
            physics substep left them, without an extra forward pass, so positions among them lag
            qpos by one substep (the reference's behaviour).
    """

    qpos: Array
    qvel: Array
    qacc_warmstart: Array
    readings: tuple[Array, ...]


class Physics(NamedTuple):
    """An engine for one model.

    Attributes:
        qpos0: (nq,) the model's initial position.
        field: (name) -> the original values of a model field.
        reset: (qpos, qvel, leaves) -> PhysicsState, with readings computed from those positions.
        step: (state, ctrl (nu,), leaves) -> PhysicsState after ``frame_skip`` physics steps.
    """

    qpos0: np.ndarray
    field: Callable[[str], Array]
    reset: Callable[[Array, Array, ModelLeaves], PhysicsState]
    step: Callable[[PhysicsState, Array, ModelLeaves], PhysicsState]
