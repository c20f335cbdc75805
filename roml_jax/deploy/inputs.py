"""What a deployed policy is given and returns: its limits, and checks of shapes, dtypes and finite values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from roml_jax.types import Continuous, Discrete


def limits(action: Discrete | Continuous) -> dict[str, Any]:
    """The fields of an action space for JSON, which has no infinity: None where there is no limit."""

    def told(end: Any) -> Any:
        if isinstance(end, tuple):
            return [told(one) for one in end]
        return end if np.isfinite(end) else None

    fields = dataclasses.asdict(action)
    return {name: told(value) for name, value in fields.items() if name != "squash"}


def numbers(what: str, given: Any, dtype: np.dtype) -> np.ndarray:
    """Converts what a user gave to an array of real numbers.

    Args:
        what: the name in messages.
        given: anything array-like.
        dtype: of the result.

    Raises:
        ValueError: if it is no array of real numbers; one line.
    """
    try:
        array = np.asarray(given)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(f"{what} must be an array of real numbers, got {_kind(given, array)}")
    with np.errstate(over="ignore"):  # too large for the dtype: infinite, which check_finite reports
        return array.astype(dtype)


def _kind(given: Any, array: np.ndarray) -> str:
    return type(given).__name__ if array.dtype == object else f"dtype {array.dtype}"


def check_finite(what: str, values: np.ndarray, parts: Mapping[str, slice]) -> None:
    """Raises ValueError if a value is NaN or infinite; one line with the part's name.

    Args:
        what: the name in messages.
        values: (n, D).
        parts: slices of the D numbers by name; empty for a value without parts.
    """
    if np.isfinite(values).all():
        return
    robot, index = (int(x) for x in np.argwhere(~np.isfinite(values))[0])
    where = "".join(
        f" part {name!r}, number {index - part.start} of {part.stop - part.start},"
        for name, part in parts.items()
        if part.start <= index < part.stop
    )
    of_robot = f" of robot {robot}" if len(values) > 1 else ""
    raise ValueError(
        f"{what}{of_robot}:{where} is {values[robot, index]}, not a finite {values.dtype}; the memory "
        "that was passed in is unchanged and can be used again"
    )


def check_outcome(what: str, values: Any, obs: np.ndarray) -> None:
    """Raises ValueError if what came of finite inputs is not finite; one line.

    Args:
        what: subject and verb of the message.
        values: a pytree of arrays.
        obs: (n, D) the observations.
    """
    floats = (np.asarray(x) for x in jax.tree.leaves(values) if np.issubdtype(x.dtype, np.floating))
    if not all(np.isfinite(x).all() for x in floats):
        raise ValueError(
            f"{what} not finite, although the observation is: its largest number is {np.abs(obs).max():.3g} "
            "(are its units those of training?); the memory that was passed in is unchanged"
        )
