"""Names to constructors, with errors that name the nearest valid choice."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from roml_jax.errors import unknown

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a component that has none."""


def leaf(default: float) -> Any:
    """A dataclass field whose value is a leaf of the component's state.

    Seeds of one program may differ in it (``--sweep``). The component keeps its leaves in ``state.rates``, by
    their dotted option names.
    """
    return dataclasses.field(default=default, metadata={"leaf": True})


def leaves(config: Any, prefix: str = "") -> dict[str, float]:
    """The values of a dataclass instance's leaf options, by dotted name."""
    found: dict[str, float] = {}
    for field in dataclasses.fields(config):
        value, dotted = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{dotted}.")
        elif field.metadata.get("leaf"):
            found[dotted] = value
    return found


def tune(state: Any, values: Mapping[str, Any]) -> Any:
    """A component's state with other values for some of its leaf options."""
    return state._replace(rates={**state.rates, **values})


def tunable(state: Any) -> tuple[str, ...]:
    """The leaf options that a component's state holds, by dotted name; none where it has no ``rates``."""
    return tuple(getattr(state, "rates", {}))


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

    def register(self, name: str, constructor: Callable[..., T] | None = None) -> Callable[..., Any]:
        """Adds a constructor: ``register(name, constructor)``, or ``@register(name)`` above its definition.

        Raises:
            ValueError: if another constructor has the name.
        """
        if constructor is None:
            return lambda decorated: self.register(name, decorated)
        if self._constructors.setdefault(name, constructor) is not constructor:
            raise ValueError(f"{self._what} {name!r} is registered already")
        return constructor

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
