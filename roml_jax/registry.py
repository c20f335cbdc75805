"""Names to constructors, with errors that name the nearest valid choice."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is not registered; the message is one line for people."""


def unknown(what: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among the valid ones."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {what} {name!r}{hint} (valid: {', '.join(valid)})")


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a component that has none."""


def options_class(constructor: Callable[..., Any]) -> type:
    """The frozen dataclass that holds a constructor's options.

    A dataclass is its own; a function's is the annotation of its parameter ``config``.
    """
    if inspect.isclass(constructor) and dataclasses.is_dataclass(constructor):
        return constructor
    hints = typing.get_type_hints(constructor)
    return hints.get("config", NoOptions)


class Registry(Generic[T]):
    """Constructors by name; filled when the modules of a package are imported."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._constructors: dict[str, Callable[..., T]] = {}

    def register(self, name: str, constructor: Callable[..., T]) -> None:
        """Adds a constructor; a name can be taken once."""
        if self._constructors.setdefault(name, constructor) is not constructor:
            raise ValueError(f"{self._what} {name!r} is registered already")

    def get(self, name: str) -> Callable[..., T]:
        """The constructor of that name.

        Raises:
            UnknownNameError: if there is none; its message lists the valid names.
        """
        if name not in self._constructors:
            raise unknown(self._what, name, self._constructors)
        return self._constructors[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._constructors))
