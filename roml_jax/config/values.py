"""Values by dotted option name, put into frozen dataclasses of the right types."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from roml_jax.errors import ConfigError

D = TypeVar("D")
Rename = Callable[[str], str]
"""The name of a dataclass's field as a part of a dotted option name; "" leaves it out."""

_NONE = ("none", "null")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def same(name: str) -> str:
    """The field's own name."""
    return name


def flag(name: str) -> str:
    """An option as it is written on the command line: ``--sampler.min-share``."""
    return "--" + name.replace("_", "-")


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested mapping's entries by dotted name."""
    for key, value in mapping.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, dotted + ".")
        else:
            yield dotted, value


def _fields(value: Any, prefix: str, rename: Rename) -> Iterator[tuple[str, str, Any]]:
    """(field, dotted option name, value) of every field of a dataclass instance."""
    for field in dataclasses.fields(value):
        part = rename(field.name) if not prefix else field.name
        dotted = ".".join(name for name in (prefix, part) if name)
        yield field.name, dotted, getattr(value, field.name)


def as_mapping(value: Any, prefix: str = "", rename: Rename = same) -> dict[str, Any]:
    """Every option of a dataclass instance by its dotted name; tuples become lists, as YAML has them."""
    found: dict[str, Any] = {}
    for _, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            found |= as_mapping(inner, dotted, rename)
        else:
            found[dotted] = list(inner) if isinstance(inner, tuple) else inner
    return found


def hints(value: Any, prefix: str = "", rename: Rename = same) -> dict[str, Any]:
    """The type of every option of a dataclass instance, by its dotted name."""
    found: dict[str, Any] = {}
    own = typing.get_type_hints(type(value))
    for name, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            found |= hints(inner, dotted, rename)
        else:
            found[dotted] = own[name]
    return found


def replace(value: D, options: Mapping[str, Any], prefix: str = "", rename: Rename = same) -> D:
    """The same dataclass instance with some options changed.

    Args:
        value: a frozen dataclass; fields that are dataclasses are replaced in turn.
        options: by dotted name, as text or as YAML has them; names that do not exist are left to the caller.
        prefix: of the instance's own option names.
        rename: see ``Rename``.

    Raises:
        ConfigError: for a value of the wrong type, or that the dataclass refuses; one line.
    """
    changed: dict[str, Any] = {}
    own = typing.get_type_hints(type(value))
    for name, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            new = replace(inner, options, dotted, rename)
            if new is not inner:
                changed[name] = new
        elif dotted in options:
            changed[name] = convert(options[dotted], own[name], dotted)
    if not changed:
        return value
    try:
        return dataclasses.replace(value, **changed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def convert(value: Any, hint: Any, name: str) -> Any:
    """A value of an option's type, from text or from YAML.

    Raises:
        ConfigError: if it cannot be one; the line says what was expected.
    """
    found = _convert(value, hint)
    if isinstance(found, _Wrong):
        raise ConfigError(f"{flag(name)} must be {found.wanted}, got {_shown(value)}")
    return found


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several values on the command line."""
    return any(typing.get_origin(part) is tuple for part in _parts(hint))


def is_switch(hint: Any) -> bool:
    """Whether an option of this type is written without a value: ``--flag`` or ``--no-flag``."""
    return hint is bool


@dataclasses.dataclass(frozen=True)
class _Wrong:
    """What would have been right."""

    wanted: str


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else repr(value)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _convert(value: Any, hint: Any) -> Any:
    parts = _parts(hint)
    if type(None) in parts:
        if value is None or (isinstance(value, str) and value.lower() in _NONE):
            return None
        parts = tuple(part for part in parts if part is not type(None))
    tried = [_one(value, part) for part in parts]
    good = [found for found in tried if not isinstance(found, _Wrong)]
    return good[0] if good else _Wrong(" or ".join(found.wanted for found in tried))


def _one(value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _one(value, typing.get_args(hint)[0])
    if origin is Literal:
        choices = typing.get_args(hint)
        return value if value in choices else _Wrong(f"one of {', '.join(map(str, choices))}")
    if origin is tuple:
        return _several(value, typing.get_args(hint))
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    return value


def _several(value: Any, kinds: tuple[Any, ...]) -> Any:
    items = list(value) if isinstance(value, list | tuple) else [value]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    found = [_convert(item, kind) for item, kind in zip(items, kinds, strict=False)]
    wrong = next((one for one in found if isinstance(one, _Wrong)), None)
    if wrong is not None:
        return _Wrong(f"a list, each of it {wrong.wanted}")
    return tuple(found) if len(items) == len(kinds) else _Wrong(f"{len(kinds)} values")


def _bool(value: Any) -> Any:
    text = str(value).lower()
    return text in _TRUE if text in (*_TRUE, *_FALSE) else _Wrong("true or false")


def _int(value: Any) -> Any:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not (whole or isinstance(value, str)):
        return _Wrong("a whole number")
    try:
        return int(value)
    except ValueError:
        return _Wrong("a whole number")


def _float(value: Any) -> Any:
    try:
        return _Wrong("a number") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return _Wrong("a number")


def _text(value: Any) -> Any:
    return _Wrong("one word") if isinstance(value, list | tuple | Mapping) or value is None else str(value)


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str | Path) else _Wrong("a path")


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _text, Path: _path}
