"""From a policy's action to the controls of the actuators: scale, offset, low-pass filter, limit of rate.

    TaskEnv.from_mjcf(..., action="ctrlrange")
    TaskEnv.from_mjcf(..., action=Actions(home="home", scale=0.3, low_pass=0.02, rate=5.0))

The environment's actions are then in [-1, 1] for every actuator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import amounts
from roml_jax.envs.amounts import Amount
from roml_jax.envs.physics.base import actuator_of
from roml_jax.envs.starts import named
from roml_jax.errors import suggestion
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array

Numbers = float | Sequence[float]
"""One number for all actuators, or one for each."""


@dataclass(frozen=True)
class Actions:
    """How actions in [-1, 1] become controls: ``offset + scale * mix @ action``, filtered, limited in rate.

    Actions are clamped to [-1, 1], controls to the unedited model's ``ctrlrange``; MuJoCo then clamps them to
    the task's. The filter and the limit of rate start at the control of the action 0 and work once per
    control step, the filter first.

    Attributes:
        scale: control units per unit of action; None for half of each actuator's ``ctrlrange``, whose middle
            is then the offset.
        offset: control of the action 0; None for 0, or for the middle of ``ctrlrange`` without a ``scale``.
        home: name of the keyframe whose controls are the offset.
        mix: (nu, m) matrix from m numbers of the action to the actuators, such as ((1.0,), (-1.0,)) for two
            mirrored fingers; None for one number per actuator.
        low_pass: time constant (s) of a first-order filter; a cutoff of f Hz is 1 / (2 pi f). 0 for none. It
            may be the name of a task dimension.
        rate: largest change of a control per second; None for no limit. One number, one for each actuator, or
            the name of a task dimension.
    """

    scale: Numbers | None = None
    offset: Numbers | None = None
    home: str | None = None
    mix: Sequence[Sequence[float]] | None = None
    low_pass: Amount = 0.0
    rate: Numbers | str | None = None


class Actuation(NamedTuple):
    """``Actions`` for a model and its tasks.

    Attributes:
        size: m, numbers of the action that go to the actuators.
        start: (nu,) the control of the action 0.
        control: (action (m,), the control of the step before (nu,), task (d,)) -> the control (nu,).
    """

    size: int
    start: np.ndarray
    control: Callable[[Array, Array, Array], Array]


def bind(
    action: Actions | str | None, model: mujoco.MjModel, family: TaskFamily, dt: float
) -> Actuation | None:
    """The actuation of a model; None for actions that are the controls themselves.

    Args:
        action: as in ``TaskEnv.from_mjcf``.
        model: the unedited model.
        family: its tasks.
        dt: seconds of a control step.

    Raises:
        ValueError: for values that do not fit the model or its tasks; one line.
    """
    if action is None:
        return None
    if isinstance(action, str):
        if action != "ctrlrange":
            near = suggestion(action, ["ctrlrange"])
            raise ValueError(f"action must be 'ctrlrange', an Actions or None, got {action!r}{near}")
        action = Actions()
    if not isinstance(action, Actions):
        raise ValueError(f"action must be 'ctrlrange', an Actions or None, got {type(action).__name__}")
    scale, offset = _line(action, model)
    mix = _mix(action, model.nu)
    low, high = ctrl_limits(model)
    limit = _limit(action, model, family, dt)
    tau = amounts.resolve(family, action.low_pass, "action.low_pass")

    def control(action: Array, before: Array, task: Array) -> Array:
        wanted = jnp.clip(action, -1.0, 1.0)
        wanted = wanted if mix is None else jnp.asarray(mix, wanted.dtype) @ wanted
        wanted = jnp.clip(offset + scale * wanted, low, high).astype(before.dtype)
        if tau.high > 0:
            share = -jnp.expm1(-dt / jnp.maximum(tau.of(task), 1e-9))
            wanted = before + share * (wanted - before)
        if limit is not None:
            wanted = before + jnp.clip(wanted - before, -limit(task), limit(task))
        return wanted

    return Actuation(model.nu if mix is None else mix.shape[1], np.clip(offset, low, high), control)


def ctrl_limits(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """The unedited model's limits of controls, (nu,) each; infinite where there is none."""
    limited = model.actuator_ctrllimited.astype(bool)
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)


def _numbers(what: str, given: Numbers, nu: int) -> np.ndarray:
    """One number for each actuator, (nu,)."""
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"action.{what} must be a number or {nu} numbers, got {given!r}") from None
    if values.shape not in ((), (nu,)) or not np.isfinite(values).all():
        raise ValueError(f"action.{what} must be a finite number or {nu} (one per actuator), got {given!r}")
    return np.broadcast_to(values, nu)


def _line(action: Actions, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """(scale (nu,), offset (nu,))."""
    if action.home is not None and action.offset is not None:
        raise ValueError("action: give either home or offset, not both")
    offset = action.offset
    if action.home is not None:
        offset = model.key_ctrl[named(model, mujoco.mjtObj.mjOBJ_KEY, action.home)]
    if action.scale is None:
        if offset is not None:
            given = "offset" if action.home is None else "home"
            raise ValueError(f"action: {given} needs a scale, such as Actions({given}=..., scale=0.3)")
        low, high = ctrl_limits(model)
        for i in np.flatnonzero(~np.isfinite(high - low)):
            actuator = actuator_of(model, "actuator_ctrlrange", int(i))
            name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, actuator) or int(i)
            raise ValueError(f"action: actuator {name!r} has no ctrlrange; give it one, or give a scale")
        return (high - low) / 2, (high + low) / 2
    scale = _numbers("scale", action.scale, model.nu)
    if not scale.all():
        raise ValueError(f"action.scale must not be 0, got {action.scale!r}")
    return scale, _numbers("offset", 0.0 if offset is None else offset, model.nu)


def _mix(action: Actions, nu: int) -> np.ndarray | None:
    if action.mix is None:
        return None
    try:
        mix = np.asarray(action.mix, np.float32)
    except (TypeError, ValueError):
        mix = np.zeros((0, 0))
    if mix.ndim != 2 or len(mix) != nu or not mix.shape[1] or not np.isfinite(mix).all():
        raise ValueError(f"action.mix must be a matrix of {nu} rows (one per actuator), got {action.mix!r}")
    return mix


def _limit(
    action: Actions, model: mujoco.MjModel, family: TaskFamily, dt: float
) -> Callable[[Array], Array | np.ndarray] | None:
    """(task) -> the largest change of the controls in one control step; None for no limit."""
    if action.rate is None:
        return None
    if isinstance(action.rate, str):
        rate = amounts.resolve(family, action.rate, "action.rate", zero=False).of
        return lambda task: rate(task) * dt
    fixed = _numbers("rate", action.rate, model.nu)
    if not (fixed > 0).all():
        raise ValueError(f"action.rate must be above 0, got {action.rate!r}")
    return lambda task: fixed * dt
