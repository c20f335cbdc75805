"""External forces on bodies: a constant one, such as a task's, and random pushes within an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs.amounts import Amount
from roml_jax.envs.carry import Carry
from roml_jax.envs.starts import named
from roml_jax.envs.view import Motion, View
from roml_jax.types import Array

Span = float | tuple[float, float]
"""A number, or the ends of the range that it is drawn from, uniformly."""


class Push(NamedTuple):
    """The value of ``pushes``.

    Attributes:
        force: (3,) of the next or present push, in newtons and world coordinates.
        clock: () int, control steps since the last push ended.
        begin: () int, the ``clock`` at which the push begins.
    """

    force: Array
    clock: Array
    begin: Array

    @property
    def now(self) -> Array:
        """(3,) the force during the next control step; 0 between pushes."""
        return jnp.where(self.clock >= self.begin, self.force, 0.0)


def ends(what: str, span: Span, *, zero: bool) -> tuple[float, float]:
    """The ends of a range.

    Raises:
        ValueError: for ends that are not finite, not in order, or below 0 (``zero``: at 0 is fine); one line.
    """
    low, high = span if isinstance(span, tuple | list) and len(span) == 2 else (span, span)
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    if not numbers or low > high or low < 0 or (low == 0 and not zero):
        least = "at least" if zero else "above"
        raise ValueError(f"{what} must be a number {least} 0, or (low, high) of such numbers, got {span!r}")
    return float(low), float(high)


def in_steps(seconds: Array | float, dt: float) -> Array:
    """A time in whole control steps, at least one, () int."""
    return jnp.maximum(jnp.round(jnp.asarray(seconds) / dt), 1).astype(jnp.int32)


def vector(what: str, given: Sequence[float]) -> tuple[float, float, float]:
    """Three numbers, not all 0.

    Raises:
        ValueError: otherwise; one line.
    """
    try:
        numbers = tuple(float(x) for x in given)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or not any(numbers):
        raise ValueError(f"{what} must be three finite numbers that are not all 0, got {given!r}")
    return numbers


def _on(body: str, view: View, force: Array) -> dict[str, Array]:
    """A force (3,) at the centre of mass of a body."""
    row = named(view.base, mujoco.mjtObj.mjOBJ_BODY, body)
    return {"xfrc_applied": jnp.zeros((view.base.nbody, 6), force.dtype).at[row, :3].set(force)}


def force(body: str, direction: Sequence[float], strength: Amount = 1.0) -> Carry:
    """A constant force on a body's centre of mass: a cable, wind.

    Args:
        body: its name.
        direction: (3,) in newtons for a strength of 1, in world coordinates.
        strength: factor, or the name of a task dimension.
    """
    line = vector("force: direction", direction)

    def apply(_: tuple, view: View, action: Array) -> dict[str, Array]:
        factor = view.number(strength) if isinstance(strength, str) else strength
        return _on(body, view, factor * jnp.asarray(line))

    return Carry(lambda key, view: (), lambda key, value, motion: (), apply)


def pushes(
    body: str,
    force: Span | str,
    duration: float = 0.1,
    every: Span = (1.0, 3.0),
    direction: Sequence[float] | None = None,
) -> Carry:
    """Random pushes on a body's centre of mass, again and again in an episode; the value is a ``Push``.

    Times are rounded to control steps, at least one.

    Args:
        body: its name.
        force: in newtons: a number, a range, or the name of a task dimension.
        duration: of a push in seconds.
        every: seconds from the end of a push, or the start of the episode, to the next one.
        direction: of all pushes, in world coordinates; None for random horizontal ones.

    Raises:
        ValueError: for numbers that are not positive; one line.
    """
    size = force if isinstance(force, str) else ends("pushes: force", force, zero=False)
    pause = ends("pushes: every", every, zero=True)
    long = ends("pushes: duration", duration, zero=False)[0]
    fixed = None if direction is None else np.array(vector("pushes: direction", direction), np.float32)

    def draw(key: Array, view: View) -> Push:
        size_key, way_key, pause_key = jax.random.split(key, 3)
        if isinstance(size, str):
            newtons = view.number(size)
        else:
            newtons = jax.random.uniform(size_key, (), minval=size[0], maxval=size[1])
        angle = jax.random.uniform(way_key, (), maxval=2 * jnp.pi)
        way = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.zeros(())])
        if fixed is not None:
            way = jnp.asarray(fixed / np.linalg.norm(fixed))
        wait = jax.random.uniform(pause_key, (), minval=pause[0], maxval=pause[1])
        begin = jnp.round(wait / view.dt).astype(jnp.int32)
        return Push(newtons * way, jnp.zeros((), jnp.int32), begin)

    def step(key: Array, push: Push, motion: Motion) -> Push:
        clock = push.clock + 1
        over = clock >= push.begin + in_steps(long, motion.dt)
        fresh = draw(key, motion.after)
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, push._replace(clock=clock))

    return Carry(draw, step, lambda push, view, action: _on(body, view, push.now))
