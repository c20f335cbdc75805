"""``--help``: the options that most runs need; ``--help-all``: every option, with its default."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast

import docstring_parser

from roml_jax import agents, envs, samplers
from roml_jax._version import PROGRAM
from roml_jax.config import values
from roml_jax.config.schema import ALIASES, SHORT, Config, every_option, rename

_WIDTH = 80
_TEXT = 21  # the column of an option's text
_NAME = "python -m roml_jax.train"
# The options of the short help, and what stands for their values.
_SHORT = {
    "env": "NAME", "sampler": "NAME", "agent": "NAME", "seeds": "N,N,...", "frames": "N", "alpha": "SHARE",
    "num_tasks": "N", "physics": "ENGINE", "out": "FOLDER", "resume": "RUN", "init_from": "RUN",
    "config": "FILE",
}  # fmt: skip
_OTHERS = {
    "-h, --help": "print this help",
    "--help-all": "print every option of the named environment, sampler and agent (--ppo.lr and so on)",
    "--version": "print the version",
}
_WHAT = "Trains a meta-learner that is robust to its hardest tasks (RoML)."
_EXAMPLE = f"Example: {_NAME} --env khazad_dum --frames 2e6 --seeds 0,1,2"
_FOLDER = """Defaults are the paper's for the chosen environment. The run's folder holds config.yaml,
metrics.jsonl and a checkpoint of the whole state; --resume continues a stopped run from it. Existing runs are
never overwritten."""


def _names() -> list[str]:
    kinds = {"Environments": envs.names(), "Samplers": samplers.names(), "Agents": agents.names()}
    return [f"{kind}: {', '.join(names)}." for kind, names in kinds.items()]


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_on_hyphens=False)


def _texts(config: Config) -> dict[str, str]:
    """The help text of each option of a configuration's own dataclass and of the engine, by name."""
    found: dict[str, str] = {}
    for owner in (*reversed(type(config).__mro__[:-1]), *type(config.env_options).__mro__[:-1]):
        for param in docstring_parser.parse_from_object(owner).params:
            found[param.arg_name] = " ".join((param.description or "").split())
    return found


def _item(head: str, text: str) -> str:
    """An option and its text; a long option has a line of its own."""
    margin = " " * _TEXT
    body = textwrap.fill(
        text, _WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )
    return f"  {head}\n{body}" if len(head) + 3 > _TEXT else f"  {head:{_TEXT - 2}}{body[_TEXT:]}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_short(config: Config) -> None:
    """Prints the options that most runs need, with their defaults; at most 80 columns."""
    texts, defaults = _texts(config), every_option(config)
    print(f"usage: {_NAME} [OPTIONS]\n\n{_WHAT}\n\n{_EXAMPLE}\n")
    for name, stands in _SHORT.items():
        default = defaults.get(SHORT.get(name, name), "")
        if default != "":  # "" where the environment has no such option
            ending = "" if default is None else f" (default: {_value(default)})"
            print(_item(f"{values.flag(name)} {stands}", texts[name] + ending))
    for head, text in _OTHERS.items():
        print(_item(head, text))
    print()
    for line in _names():
        print(_filled(line))
    print("\n" + _filled(_FOLDER))


def show_all(config: Config) -> None:
    """Prints all options with their defaults."""
    import tyro  # imported here because it takes half a second and only this help needs it

    aliases = {full: [f"--{alias}"] for alias, full in ALIASES.items()}
    fields = []
    for one in dataclasses.fields(config):
        part, value = rename(one.name), getattr(config, one.name)
        kind = type(value) if dataclasses.is_dataclass(value) else values.hints(config)[one.name]
        how = tyro.conf.arg(name=part, aliases=aliases.get(one.name))
        # made at run time, which is no type for a type checker
        fields.append((one.name, cast(Any, Annotated)[kind, how], dataclasses.field(default=value)))
    with_defaults = dataclasses.make_dataclass("Config", fields, bases=(type(config),), frozen=True)
    print("\n\n".join([_WHAT, _EXAMPLE, "\n".join(map(_filled, _names())), _filled(_FOLDER)]), end="\n\n")
    named = "Options of the environment, sampler and agent named on the command line:"
    try:
        tyro.cli(with_defaults, args=["--help"], prog=_NAME, description=named)
    except SystemExit:  # by which tyro ends after printing
        return


def show_version(config: Config) -> None:
    """Prints the version."""
    del config
    print(PROGRAM)


PRINTS: Mapping[str, Callable[[Config], None]] = {
    "-h": show_short, "--help": show_short, "--help-all": show_all, "--version": show_version,
}  # fmt: skip
"""What options print instead of a training."""
