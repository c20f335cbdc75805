"""Commands that change within an episode, and mocap bodies that an action or the task moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax import users_code
from roml_jax.envs.carry import Carry
from roml_jax.envs.forces import Span, ends, in_steps
from roml_jax.envs.starts import named
from roml_jax.envs.view import Motion, View
from roml_jax.types import Array

Level = float | str | Sequence[float]
"""A number, numbers, or the name of a task dimension."""


class Command(NamedTuple):
    """The value of ``commands``.

    Attributes:
        value: (k,) the command.
        clock: () int, control steps since it was drawn.
        change: () int, the ``clock`` at which the next one is drawn.
    """

    value: Array
    clock: Array
    change: Array


def _level(what: str, given: Level) -> str | np.ndarray:
    if isinstance(given, str):
        return given
    try:
        numbers = np.atleast_1d(np.asarray(given, np.float32))
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"commands: {what} must be finite numbers or a task dimension, got {given!r}")
    return numbers


def commands(low: Level, high: Level, every: Span | None = None) -> Carry:
    """A command, uniform on a range, such as a target velocity; the value is a ``Command``.

    Args:
        low: (k,) or one number, or the name of a task dimension.
        high: likewise.
        every: seconds from one command to the next; None for one per episode. Rounded to control steps.

    Raises:
        ValueError: for a range that is empty, or times that are not positive; one line.
    """
    lowest, highest = _level("low", low), _level("high", high)
    if not isinstance(lowest, str) and not isinstance(highest, str):
        if len({1, len(lowest), len(highest)}) > 2:
            raise ValueError(f"commands: low and high must have as many numbers, got {low!r} and {high!r}")
        if not (lowest <= highest).all():
            raise ValueError(f"commands: low must not be above high, got {low!r} and {high!r}")
    pause = None if every is None else ends("commands: every", every, zero=False)

    def draw(key: Array, view: View) -> Command:
        value_key, pause_key = jax.random.split(key)
        bottom, top = (view.number(x) if isinstance(x, str) else jnp.asarray(x) for x in (lowest, highest))
        shape = jnp.broadcast_shapes(bottom.shape, top.shape, (1,))
        value = bottom + (top - bottom) * jax.random.uniform(value_key, shape)
        change = jnp.asarray(np.iinfo(np.int32).max, jnp.int32)
        if pause is not None:
            change = in_steps(jax.random.uniform(pause_key, (), minval=pause[0], maxval=pause[1]), view.dt)
        return Command(value, jnp.zeros((), jnp.int32), change)

    def step(key: Array, command: Command, motion: Motion) -> Command:
        later = command._replace(clock=command.clock + 1)
        fresh = draw(key, motion.after)
        return jax.tree.map(lambda new, old: jnp.where(later.clock >= later.change, new, old), fresh, later)

    return Carry(draw, step)


def _mocap_row(body: str, model: mujoco.MjModel) -> int:
    """The row of a mocap body.

    Raises:
        ValueError: for a body that is none; one line with those that are.
    """
    row = int(model.body_mocapid[named(model, mujoco.mjtObj.mjOBJ_BODY, body)])
    if row < 0:
        bodies = np.flatnonzero(model.body_mocapid >= 0)
        names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, int(i)) or str(i) for i in bodies]
        has = ", ".join(names) or "none"
        raise ValueError(f'body {body!r} has no mocap="true" in its MJCF (mocap bodies: {has})')
    return row


def _bound(what: str, given: Sequence[float] | None, default: float) -> np.ndarray:
    if given is None:
        return np.full(3, default, np.float32)
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (3,) or np.isnan(values).any():
        raise ValueError(f"mocap: {what} must be three numbers, got {given!r}")
    return values


def mocap(
    body: str, scale: float = 0.05, low: Sequence[float] | None = None, high: Sequence[float] | None = None
) -> Carry:
    """A mocap body that three numbers of the action move, as in Fetch and Sawyer.

    The three numbers follow those of the actuators and are clamped to [-1, 1].

    Args:
        body: its name.
        scale: metres per control step of an action of 1.
        low: (3,) lower corner of the box that it stays in; None for no limit.
        high: (3,) upper corner.

    Raises:
        ValueError: for a scale that is not positive, or an empty box; one line.
    """
    step = ends("mocap: scale", scale, zero=False)[0]
    lowest, highest = _bound("low", low, -np.inf), _bound("high", high, np.inf)
    if not (lowest < highest).all():
        raise ValueError(f"mocap: low must be below high, got {low!r} and {high!r}")

    def apply(_: tuple, view: View, action: Array) -> dict[str, Array]:
        row, now = _mocap_row(body, view.base), view.state.carried["mocap_pos"]
        moved = jnp.clip(now[row] + step * jnp.clip(action, -1.0, 1.0), lowest, highest)
        return {"mocap_pos": now.at[row].set(moved)}

    return Carry(lambda key, view: (), lambda key, value, motion: (), apply, 3)


def mocap_at(body: str, where: Callable[[View], Array]) -> Carry:
    """A mocap body that stands where a function puts it, such as a target that the task or a carry moves.

    Args:
        body: its name.
        where: (``View`` before a step) -> (3,) its position during the step, and at the start of an episode.
    """

    def apply(_: tuple, view: View, action: Array) -> dict[str, Array]:
        row, now = _mocap_row(body, view.base), view.state.carried["mocap_pos"]
        place = jnp.asarray(users_code.call(f"where of mocap body {body!r}", where, view))
        if place.shape != (3,):
            raise ValueError(f"where of mocap body {body!r} must return (3,), got {place.shape}")
        return {"mocap_pos": now.at[row].set(place)}

    return Carry(lambda key, view: (), lambda key, value, motion: (), apply, at_start=True)
