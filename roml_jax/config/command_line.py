"""Command line of training: parses tokens into options by dotted name, and prints ``--help``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

from roml_jax import agents, envs, samplers
from roml_jax.config import values
from roml_jax.config.schema import ALIASES, SHORT, Config, rename
from roml_jax.errors import ConfigError, nearest


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
            raise ConfigError(f"unexpected argument {token!r}: options begin with -- (see --help)")
        written, equals, value = token[2:].partition("=")
        name, kind, negated = _known(written, kinds)
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
        if not arguments and not values.is_list(kind):
            raise ConfigError(f"--{written} needs a value")
        parsed[name] = arguments if values.is_list(kind) else arguments[0]
    return parsed


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
    return modules


def refuse(name: str, valid: Sequence[str], source: str = "") -> NoReturn:
    """Raises ConfigError for an unknown option; the message names the most similar valid one.

    Args:
        name: the dotted name.
        valid: the valid dotted names.
        source: prefix of the message, such as the file that has the option.
    """
    near = nearest(name, valid)
    hint = f"; did you mean {values.flag(near)}?" if near else ""
    raise ConfigError(f"{source}unknown option {values.flag(name)}{hint} (--help lists all options)")


def _known(written: str, kinds: Mapping[str, Any]) -> tuple[str, Any, bool]:
    """An option's dotted name, its type, and whether ``no_`` before the name's last part negates it.

    Args:
        written: the option as written on the command line, without ``--``.
        kinds: types of the valid options, by dotted name.
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
    refuse(name, [*kinds, *ALIASES])


def show_help(config: Config) -> NoReturn:
    """Prints all options with their defaults and ends the process.

    Raises:
        SystemExit: with code 0.
    """
    import tyro  # imported here because it takes half a second and only --help needs it

    aliases = {full: [f"--{alias}"] for alias, full in ALIASES.items()}
    fields = []
    for one in dataclasses.fields(config):
        part, value = rename(one.name), getattr(config, one.name)
        kind = type(value) if dataclasses.is_dataclass(value) else values.hints(config)[one.name]
        how = tyro.conf.arg(name=part, aliases=aliases.get(one.name))
        fields.append((one.name, Annotated[kind, how], dataclasses.field(default=value)))
    with_defaults = dataclasses.make_dataclass("Config", fields, bases=(type(config),), frozen=True)
    tyro.cli(with_defaults, args=["--help"], prog="python -m roml_jax.train", description=_description())
    raise SystemExit(0)


def _description() -> str:
    return f"""Trains a meta-learner that is robust to its hardest tasks (RoML).

Example: python -m roml_jax.train --env khazad_dum --sampler cem --frames 2e6 --seeds 0 1 2

Environments: {", ".join(envs.names())}.
Samplers: {", ".join(samplers.names())}. Agents: {", ".join(agents.names())}.

Defaults are the paper's for the chosen environment. The run's folder holds config.yaml, metrics.jsonl and a
checkpoint of the whole state; --resume continues a stopped run from it. Existing runs are never overwritten.
The options below are those of the environment, sampler and agent named on the command line."""
