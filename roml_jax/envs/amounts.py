"""Numbers that are fixed or a dimension of the task: a delay of two steps, or one of ``"latency_ms"``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from roml_jax.errors import suggestion
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array

Amount = float | str
"""A number, or the name of the task dimension that gives it."""


class Resolved(NamedTuple):
    """An amount of a task family.

    Attributes:
        of: (task (d,)) -> the number ().
        low: its smallest value in any task.
        high: its largest value in any task; may be infinite.
    """

    of: Callable[[Array], Array]
    low: float
    high: float


def index(family: TaskFamily, name: str, what: str) -> int:
    """The place of a dimension in a task.

    Raises:
        ValueError: for a name that the family does not have; one line with the nearest one.
    """
    if name not in family.names:
        near, has = suggestion(name, family.names), ", ".join(family.names)
        raise ValueError(f"{what}: no task dimension is named {name!r}{near} (there is {has})")
    return family.names.index(name)


def number(family: TaskFamily, task: Array, name: str) -> Array:
    """The number () of a task (d,) that a dimension's name stands for."""
    return task[index(family, name, "the task's number")]


def resolve(family: TaskFamily, amount: Amount, what: str, *, zero: bool = True) -> Resolved:
    """The function that reads an amount from a task, and its range.

    Args:
        family: the tasks.
        amount: a number, or the name of a dimension.
        what: the amount's name in messages.
        zero: whether it may be 0.

    Raises:
        ValueError: for an unknown dimension, or a number that is negative or not finite; one line.
    """
    if isinstance(amount, str):
        i = index(family, amount, what)
        low, high = family.ranges[i]
        of = lambda task: task[i]  # noqa: E731
        got = f"the task dimension {amount!r} from {low:g}"
    elif isinstance(amount, int | float) and not isinstance(amount, bool):
        low = high = float(amount)
        of = lambda task: jnp.asarray(low, task.dtype)  # noqa: E731
        got = f"{amount}"
    else:
        raise ValueError(f"{what} must be a number or the name of a task dimension, got {amount!r}")
    if not math.isfinite(low) or low < 0 or (low == 0 and not zero):
        raise ValueError(f"{what} must be {'at least' if zero else 'above'} 0, got {got}")
    return Resolved(of, low, high)
