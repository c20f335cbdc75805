"""Edits of servos and muscles that do something else than their field's name says."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import mujoco

from roml_jax.envs.door.rules import Change, row_name
from roml_jax.envs.physics import Derived
from roml_jax.envs.physics.base import actuator_of

_BOTH = "actuator_gainprm and actuator_biasprm"


def _is_servo(model: mujoco.MjModel, row: int) -> bool:
    """Whether the actuator pulls toward a target, its control."""
    affine = model.actuator_biastype[row] == mujoco.mjtBias.mjBIAS_AFFINE
    return bool(affine and model.actuator_biasprm[row, 1:3].any())


def _is_automatic(model: mujoco.MjModel, row: int) -> bool:
    """Whether the actuator is a muscle whose peak force MuJoCo computes."""
    is_muscle = model.actuator_gaintype[row] == mujoco.mjtGain.mjGAIN_MUSCLE
    return bool(is_muscle and model.actuator_gainprm[row, 2] < 0)


def _surprise(
    model: mujoco.MjModel, change: Change, row: int, biased: Container[int], derived: Derived
) -> str | None:
    name, index = row_name(model, change.field, row), actuator_of(model, change.field, row)
    if change.field == "actuator_gear":
        if _is_servo(model, index):
            return (
                f"{name} is a servo: a gear of g moves its target to ctrl / g and makes it g * g times as "
                f"stiff; for a weaker one edit actuator_forcerange, for a softer one {_BOTH}"
            )
        if _is_automatic(model, index) and derived == "consistent":
            return (
                f"{name} is a muscle of force -1: MuJoCo chooses its peak force anew for every gear; for a "
                f"weaker one edit column 3 of {_BOTH}"
            )
    elif _is_servo(model, index) and change.mask[row, 0] and row not in biased:
        return (
            f"{name} is a servo: its gain alone moves its target, not its stiffness; for a softer one "
            f"edit {_BOTH}, for a weaker one actuator_forcerange"
        )
    return None


def surprises(
    model: mujoco.MjModel, changes: Sequence[Change], derived: Derived
) -> Iterator[tuple[Change, str]]:
    """Edits that make no actuator weaker or stronger, though they look so, with what to edit instead.

    Args:
        model: the unedited model.
        changes: all edits of the tasks.
        derived: as for an engine.

    Yields:
        (edit, one line on the first actuator that it concerns).
    """
    biased = {row for change in changes if change.field == "actuator_biasprm" for row in change.rows}
    for change in changes:
        if change.field in ("actuator_gear", "actuator_gainprm"):
            lines = (_surprise(model, change, row, biased, derived) for row in change.rows)
            line = next((line for line in lines if line is not None), None)
            if line is not None:
                yield change, line
