"""Command line of training: parses tokens into options by dotted name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from roml_jax import envs, users_code
from roml_jax.config import values
from roml_jax.config.schema import ALIASES, SHORT, Config, rename
from roml_jax.errors import ConfigError, nearest
from roml_jax.registry import options_class

_LISTS_OF_NAMES = ("imports", "log")  # whose entries may be divided by commas, as numbers always may


def options(tokens: Sequence[str], config: Config) -> dict[str, Any]:
    """Parses command-line tokens into options by dotted name. If an option is repeated, the last value wins.

    Args:
        tokens: the command line, split by the shell.
        config: a configuration with all valid options.

    Raises:
        ConfigError: for an unknown option, a missing value or an argument without an option; one line.
    """
    kinds = values.hints(config, rename=rename)
    parsed: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            raise ConfigError(f"unexpected argument {token!r}: {_meant(token)}")
        written, equals, value = token[2:].partition("=")
        name, kind, negated = _known(written, kinds, config.env)
        arguments = [value] if equals else []
        if values.is_switch(kind):
            if equals and negated:
                raise ConfigError(
                    f"--{written} takes no value, got {value!r}: write --{written} or {values.flag(name)}=..."
                )
            parsed[name] = value if equals else not negated
            continue
        if not equals:
            count = len(rest) if values.is_list(kind) else 1
            while rest and count and not rest[0].startswith("--"):
                arguments.append(rest.pop(0))
                count -= 1
        stray = next((text for text in arguments[1:] if text in envs.names()), None)
        if stray is not None:  # an environment after a list
            raise ConfigError(f"unexpected argument {stray!r}: {_meant(stray)}")
        if not arguments and not values.is_list(kind):
            raise ConfigError(f"--{written} needs a value")
        arguments = values.split(arguments) if name in _LISTS_OF_NAMES else arguments
        parsed[name] = arguments if values.is_list(kind) else arguments[0]
    return parsed


def _meant(argument: str) -> str:
    """What the user of an argument without an option probably means."""
    near = nearest(argument, envs.names())
    if near == argument:
        return f"write --env {argument}"
    return "options begin with -- " + (f"(did you mean --env {near}?)" if near else "(see --help)")


def named(tokens: Sequence[str], name: str) -> str | None:
    """The last value of the option ``--name`` among tokens, or None if it does not occur."""
    value = None
    for i, token in enumerate(tokens):
        if token == f"--{name}" and i + 1 < len(tokens):
            value = tokens[i + 1]
        elif token.startswith(f"--{name}="):
            value = token.split("=", 1)[1]
    return value


def imports(tokens: Sequence[str]) -> list[str]:
    """The modules that ``--imports`` (``--import``) names; read before the other options are parsed."""
    modules: list[str] = []
    taking = False
    for token in tokens:
        head, equals, value = token.partition("=")
        if head in ("--imports", "--import"):
            taking, modules = not equals, [value] if equals else []
        elif token.startswith("--"):
            taking = False
        elif taking:
            modules.append(token)
    return values.split(modules)


def refuse(name: str, valid: Sequence[str], env: str, source: str = "") -> NoReturn:
    """Raises ConfigError for an unknown option; the message names the most similar valid one.

    Args:
        name: the dotted name.
        valid: the valid dotted names.
        env: name of the environment.
        source: prefix of the message, such as the file that has the option.
    """
    if name in ("physics", SHORT["physics"]):
        raise ConfigError(f"{source}{no_engine(env)}: leave out --physics")
    near = nearest(name, valid)
    hint = f"; did you mean {values.flag(near)}?" if near else ""
    raise ConfigError(f"{source}unknown option {values.flag(name)}{hint} (--help-all lists all options)")


def no_engine(env: str) -> str:
    """Why an environment has no option for the physics engine."""
    made = envs.get(env) if env in envs.names() else None
    is_ours = made is not None and users_code.is_ours(made)
    if is_ours and not any(field.name == "physics" for field in dataclasses.fields(options_class(made))):
        return f"{env} has no physics engine"
    return f"{env} has no option for its physics engine"  # an object, or an environment of the user's own


def _known(written: str, kinds: Mapping[str, Any], env: str) -> tuple[str, Any, bool]:
    """An option's dotted name, its type, and whether ``no_`` before the name's last part negates it.

    Args:
        written: the option as written on the command line, without ``--``.
        kinds: types of the valid options, by dotted name.
        env: name of the environment.
    """
    name = written.replace("-", "_")
    name = ALIASES.get(name, name)
    if SHORT.get(name) in kinds:
        name = SHORT[name]
    if name in kinds:
        return name, kinds[name], False
    head, _, last = name.rpartition(".")
    positive = ".".join(part for part in (head, last.removeprefix("no_")) if part)
    if last.startswith("no_") and values.is_switch(kinds.get(positive)):
        return positive, kinds[positive], True
    refuse(name, [*kinds, *ALIASES], env)
