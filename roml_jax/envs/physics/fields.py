"""The values of model fields under a task, where the engine computes them outside of the compiled program."""

from __future__ import annotations

from collections.abc import Container

import jax.numpy as jnp
import mujoco

from roml_jax.envs.physics.base import Derived, ModelLeaves, field_of
from roml_jax.envs.physics.derived import inertia_scaled, is_ancestor
from roml_jax.types import Array

_INPUTS = frozenset(mujoco.MjModel._setconst_inputs)
_OUTPUTS = frozenset(mujoco.MjModel._setconst_outputs) - _INPUTS
"""The fields from which ``mj_setConst`` computes others, and those others."""


def on_host(
    base: mujoco.MjModel, derived: Derived, stale: Container[str], name: str, leaves: ModelLeaves
) -> Array:
    """The value of a field with which the C engine simulates a task.

    Args:
        base: the unedited model.
        derived: as in ``make``.
        stale: the constants that keep their unedited values with ``derived="stale"``.
        name: of a field that is not among ``leaves``.
        leaves: the fields that the task replaces.

    Raises:
        ValueError: for a field that the engine derives from the task's and that is not known here; one line.
    """
    if "body_mass" in leaves:
        mass = leaves["body_mass"]
        if name == "body_subtreemass":
            return jnp.asarray(is_ancestor(base), mass.dtype).T @ mass
        if name == "body_inertia" and derived == "consistent":
            return inertia_scaled(jnp.asarray(base.body_mass), jnp.asarray(base.body_inertia), mass)
    if derived == "consistent" or name not in stale:
        _refuse_derived(name, leaves)
    return jnp.asarray(field_of(base, name))


def on_device(base: mujoco.MjModel, derived: Derived, name: str, leaves: ModelLeaves) -> Array:
    """The value of a field with which MJX simulates a task; what it recomputes is among the leaves.

    Raises:
        ValueError: for a field that depends on the task's and that MJX does not recompute; one line.
    """
    if derived == "consistent":
        _refuse_derived(name, leaves)
    return jnp.asarray(field_of(base, name))


def _refuse_derived(name: str, leaves: ModelLeaves) -> None:
    sources = sorted(_INPUTS & set(leaves))
    if sources and name in _OUTPUTS:
        raise ValueError(
            f"{name} depends on the task's {sources[0]}, and this engine has no value of it that observations"
            " and rewards can read"
        )
