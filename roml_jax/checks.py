"""Range checks for configuration dataclasses; a value out of range raises a one-line error."""

from __future__ import annotations

import math
from typing import Any


def whole(text: str) -> int:
    """Parses a whole number, which may be written as a float (``1e5``).

    Raises:
        ValueError: if the text is no number, or not a whole one; one line.
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer():  # nor is an infinity
        raise ValueError(f"must be a whole number, got {text!r}")
    return int(number)


def _numbers(owner: Any, name: str) -> tuple[float, ...]:
    """The numbers in a field: the value itself, the entries of a tuple, or nothing for None."""
    value = getattr(owner, name)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, tuple) else (value,)


def _require(owner: Any, group: str, names: tuple[str, ...], holds: Any, wanted: str) -> None:
    for name in names:
        if not all(holds(number) for number in _numbers(owner, name)):
            dotted = f"{group}.{name}" if group else name
            raise ValueError(f"{dotted} must be {wanted}, got {getattr(owner, name)}")


def at_least(owner: Any, group: str, minimum: int, *names: str) -> None:
    """Raises ValueError unless the named fields are finite and at least ``minimum``; None passes."""
    _require(owner, group, names, lambda x: math.isfinite(x) and x >= minimum, f"at least {minimum}")


def positive(owner: Any, group: str, *names: str) -> None:
    """Raises ValueError unless the named fields are finite and above 0; None passes."""
    _require(owner, group, names, lambda x: math.isfinite(x) and x > 0, "positive and finite")


def finite(owner: Any, group: str, *names: str) -> None:
    """Raises ValueError unless the named fields are finite numbers; None passes."""
    _require(owner, group, names, math.isfinite, "a finite number")


def one_of(owner: Any, group: str, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the named field is one of the choices."""
    value = getattr(owner, name)
    if value not in choices:
        raise ValueError(f"{group}.{name} must be one of {', '.join(choices)}, got {value!r}")


def share(owner: Any, group: str, *names: str, zero: bool = True, one: bool = True) -> None:
    """Raises ValueError unless the named fields lie in [0, 1]; None passes.

    Args:
        owner: the dataclass instance.
        group: prefix of the option names in the message.
        *names: the fields to check.
        zero: whether 0 is allowed.
        one: whether 1 is allowed.
    """
    interval = f"in {'[' if zero else '('}0, 1{']' if one else ')'}"

    def holds(x: float) -> bool:
        return 0 <= x <= 1 and (zero or x > 0) and (one or x < 1)

    _require(owner, group, names, holds, interval)
