"""Conversion of option values, by dotted name, into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from roml_jax import checks
from roml_jax.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")
Rename = Callable[[str], str]
"""Maps the name of a dataclass's field to its part of a dotted option name; "" for no part."""

_NONE = ("none", "null")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def same(name: str) -> str:
    """The identity: a field's name is its part of the option name."""
    return name


def flag(name: str) -> str:
    """An option's spelling on the command line, such as ``--sampler.min-share``."""
    return "--" + name.replace("_", "-")


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a nested mapping, as (dotted name, value)."""
    for key, value in mapping.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, dotted + ".")
        else:
            yield dotted, value


def _fields(value: Any, prefix: str, rename: Rename) -> Iterator[tuple[str, str, Any]]:
    """(field name, dotted option name, value) of every field of a dataclass instance."""
    for field in dataclasses.fields(value):
        part = rename(field.name) if not prefix else field.name
        dotted = ".".join(name for name in (prefix, part) if name)
        yield field.name, dotted, getattr(value, field.name)


def as_mapping(value: Any, prefix: str = "", rename: Rename = same) -> dict[str, Any]:
    """All options of a dataclass instance by dotted name. Tuples become lists and paths text, as in YAML."""
    options: dict[str, Any] = {}
    for _, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            options |= as_mapping(inner, dotted, rename)
        else:
            text = str(inner) if isinstance(inner, Path) else inner
            options[dotted] = list(text) if isinstance(text, tuple) else text
    return options


def hints(value: Any, prefix: str = "", rename: Rename = same) -> dict[str, Any]:
    """The types of all options of a dataclass instance, by dotted name."""
    hint_by_option: dict[str, Any] = {}
    field_hints = typing.get_type_hints(type(value))
    for name, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            hint_by_option |= hints(inner, dotted, rename)
        else:
            hint_by_option[dotted] = field_hints[name]
    return hint_by_option


def replace(value: D, options: Mapping[str, Any], prefix: str = "", rename: Rename = same) -> D:
    """Returns a copy of a dataclass instance with some options changed.

    Args:
        value: a frozen dataclass; fields that are dataclasses are replaced recursively.
        options: new values by dotted name, as text or as YAML types. Unknown names are ignored; the caller
            must check for them.
        prefix: prefix of the instance's option names.
        rename: see ``Rename``.

    Raises:
        ConfigError: for a value of the wrong type, or one that the dataclass rejects; one line.
    """
    changed: dict[str, Any] = {}
    field_hints = typing.get_type_hints(type(value))
    for name, dotted, inner in _fields(value, prefix, rename):
        if dataclasses.is_dataclass(inner):
            new = replace(inner, options, dotted, rename)
            if new is not inner:
                changed[name] = new
        elif dotted in options:
            changed[name] = convert(options[dotted], field_hints[name], dotted)
    if not changed:
        return value
    try:
        return dataclasses.replace(value, **changed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def convert(value: Any, hint: Any, name: str) -> Any:
    """Converts a value, as text or as a YAML type, to an option's type.

    Args:
        value: the value.
        hint: the option's type.
        name: the option's dotted name, for the error message.

    Raises:
        ConfigError: if the conversion fails; one line with the expected type.
    """
    converted = _convert(_plain(value), hint)
    if isinstance(converted, _Wrong):
        raise ConfigError(f"{flag(name)} must be {converted.wanted}, got {_shown(value)}")
    return converted


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several values on the command line."""
    return any(typing.get_origin(part) is tuple for part in _parts(hint))


def is_switch(hint: Any) -> bool:
    """Whether an option of this type needs no value on the command line: ``--flag`` or ``--no-flag``."""
    return hint is bool


@dataclasses.dataclass(frozen=True)
class _Wrong:
    """The result of a failed conversion, with a description of the expected value."""

    wanted: str


def _shown(value: Any) -> str:
    return " ".join(str(x) or "''" for x in value) if isinstance(value, list | tuple) else repr(value)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union type, or the type itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(value: Any) -> Any:
    """Python's number or list for one of NumPy or JAX."""
    return value.tolist() if hasattr(value, "tolist") else value


def _convert(value: Any, hint: Any) -> Any:
    parts = _parts(hint)
    if type(None) in parts:
        if is_none(value):
            return None
        parts = tuple(part for part in parts if part is not type(None))
    tried = [_one(value, part) for part in parts]
    valid = [result for result in tried if not isinstance(result, _Wrong)]
    return valid[0] if valid else _Wrong(" or ".join(result.wanted for result in tried))


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


def is_none(value: Any) -> bool:
    """Whether a value is None or a word for it."""
    return value is None or (isinstance(value, str) and value.lower() in _NONE)


def split(value: Any) -> list[Any]:
    """The entries of a list; one written as text may hold several, divided by commas (``64,64``)."""
    value = _plain(value)
    items = value if isinstance(value, list | tuple | range) else [value]
    return [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]


def _several(value: Any, kinds: tuple[Any, ...]) -> Any:
    numeric = {int, float} & {*_parts(kinds[0])}  # text may contain commas
    items = split(value) if numeric else list(value) if isinstance(value, list | tuple) else [value]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    converted = [_convert(item, kind) for item, kind in zip(items, kinds, strict=False)]
    wrong = next((one for one in converted if isinstance(one, _Wrong)), None)
    if wrong is not None:
        return _Wrong(f"a list with each entry {wrong.wanted}")
    return tuple(converted) if len(items) == len(kinds) else _Wrong(f"{len(kinds)} values")


def _bool(value: Any) -> Any:
    text = str(value).lower()
    return text in _TRUE if text in (*_TRUE, *_FALSE) else _Wrong("true or false")


def _int(value: Any) -> Any:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not (whole or isinstance(value, str)):
        return _Wrong("a whole number")
    try:
        return checks.whole(value) if isinstance(value, str) else int(value)
    except ValueError:
        return _Wrong("a whole number")


def _float(value: Any) -> Any:
    try:
        return _Wrong("a number") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return _Wrong("a number")


def _text(value: Any) -> Any:
    return _Wrong("text") if isinstance(value, list | tuple | Mapping) or value is None else str(value)


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str | Path) else _Wrong("a path")


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _text, Path: _path}
