"""Registries of constructors by name, and the options that are leaves of a component's state."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, overload

from roml_jax.errors import unknown

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Empty options class, for a component without options."""


def leaf(default: float) -> Any:
    """A dataclass field whose value is stored as a leaf of the component's state.

    The seeds of one program may have different values of it (``--sweep``). The component keeps its leaves in
    ``state.rates``, by dotted option name.

    Args:
        default: the field's default value.
    """
    return dataclasses.field(default=default, metadata={"leaf": True})


def leaves(config: Any, prefix: str = "") -> dict[str, float]:
    """The values of a dataclass instance's leaf options, by dotted name."""
    values: dict[str, float] = {}
    for field in dataclasses.fields(config):
        value, dotted = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            values |= leaves(value, f"{dotted}.")
        elif field.metadata.get("leaf"):
            values[dotted] = value
    return values


def tune(state: Any, values: Mapping[str, Any]) -> Any:
    """A component's state with new values for some of its leaf options.

    Args:
        state: a NamedTuple with a field ``rates``.
        values: the new values, by dotted option name.
    """
    return state._replace(rates={**state.rates, **values})


def tunable(state: Any) -> tuple[str, ...]:
    """Dotted names of the leaf options in a component's state; empty if it has no field ``rates``."""
    return tuple(getattr(state, "rates", {}))


def options_class(constructor: Callable[..., Any]) -> type[Any]:
    """The frozen dataclass of a constructor's options.

    If the constructor is a dataclass, it is its own options class. If it is a function, the options class is
    the annotation of its parameter ``config``, or ``NoOptions``.
    """
    if inspect.isclass(constructor) and dataclasses.is_dataclass(constructor):
        return constructor
    hints = typing.get_type_hints(constructor)
    return hints.get("config", NoOptions)


class Registry(Generic[T]):
    """Constructors by name. Modules add their constructors when they are imported."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._constructors: dict[str, Callable[..., T]] = {}

    @overload
    def register(self, name: str) -> Callable[[F], F]: ...

    @overload
    def register(self, name: str, constructor: F) -> F: ...

    def register(self, name: str, constructor: Callable[..., T] | None = None) -> Callable[..., Any]:
        """Adds a constructor: ``register(name, constructor)``, or ``@register(name)`` as a decorator.

        Raises:
            ValueError: if another constructor already has this name.
        """
        if constructor is None:
            return lambda decorated: self.register(name, decorated)
        if self._constructors.setdefault(name, constructor) is not constructor:
            raise ValueError(f"{self._what} {name!r} is already registered")
        return constructor

    def get(self, name: str) -> Callable[..., T]:
        """The constructor with this name.

        Raises:
            UnknownNameError: if there is none; the message lists the valid names.
        """
        if name not in self._constructors:
            raise unknown(self._what, name, self._constructors)
        return self._constructors[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._constructors))
