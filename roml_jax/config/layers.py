"""Where a run's options come from; a later source wins over an earlier one.

Defaults, ``configs/ENV.yaml``, ``configs/AGENT.yaml``, ``configs/ENV_AGENT.yaml``, ``--config FILE``, and
what the command line or the caller gives. Where the chosen sampler (environment, agent) is not the one that a
preset or a file was written for, options that only the other one knows are left out.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from roml_jax import agents, envs, samplers
from roml_jax.config import command_line, seed_plan, values
from roml_jax.config.presets import named_file, preset, read_yaml
from roml_jax.config.schema import (
    COMPONENTS,
    SHORT,
    Config,
    check_same,
    every_option,
    rename,
    schema,
    to_mapping,
)
from roml_jax.errors import ConfigError


def import_modules(names: Sequence[str]) -> None:
    """Imports modules for what they register.

    Raises:
        ConfigError: for one that cannot be imported, or that registers nothing; one line.
    """

    def registered() -> set[tuple[str, str]]:
        return {(kind.__name__, name) for kind in (envs, agents, samplers) for name in kind.names()}

    for name in names:
        loaded, before = name in sys.modules, registered()
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of somebody else's may raise
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"--import {name} failed: {what}") from None
        if not loaded and registered() == before:
            del sys.modules[name]  # so that the next attempt is refused, too
            raise ConfigError(f"--import {name} registers nothing; roml_jax.envs.register(NAME, maker) does")


class _File(NamedTuple):
    """A file of options: its name for messages, and its options by dotted name."""

    label: str
    options: dict[str, Any]


def _with(config: Config, options: Mapping[str, Any], source: str) -> Config:
    """A configuration with options of one source over it; errors name the source.

    Raises:
        ConfigError: for an unknown option or a wrong value; one line.
    """
    known = every_option(config)
    options = {SHORT.get(name, name) if SHORT.get(name) in known else name: v for name, v in options.items()}
    if "seeds" in options:
        options["seeds"] = seed_plan.expand(options["seeds"])
    for name in options:
        if name not in known:
            command_line.refuse(name, [*known], source)
    try:
        return values.replace(config, options, rename=rename)
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from None


def _without(options: Mapping[str, Any], component: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Options less those of a component that the chosen one in its place does not know."""
    return {
        key: value for key, value in options.items() if not key.startswith(f"{component}.") or key in known
    }


def _for_agent(
    options: Mapping[str, Any], names: Mapping[str, str], agent: str, known: Mapping[str, Any], env: Any
) -> dict[str, Any]:
    """Options written for another agent, less those that only that one knows."""
    own = to_mapping(schema({**names, "agent": agent}, env)())
    return {key: value for key, value in options.items() if key in known or key not in own}


def _before_the_user(names: Mapping[str, str], file: _File | None, env: envs.Env | None) -> Config:
    """Defaults, presets and file of the named components."""
    config = schema(names, env)()
    known = to_mapping(config)
    # an environment's preset is for its paper's sampler and agent; others have options of their own
    options = _without(preset(names["env"]) if env is None else {}, "sampler", known)
    options = _for_agent(options, names, Config.agent, known, env)
    options |= _without(preset(names["agent"], f"{names['env']}_{names['agent']}"), "sampler", known)
    config = _with(config, options, f"preset {names['env']}: ")
    if file is None:
        return config
    in_file = dict(file.options)
    written_for = _written_for(file)
    for component in ("env", "sampler"):
        if names[component] != written_for[component]:
            in_file = _without(in_file, component, known)
    if names["agent"] != written_for["agent"]:
        in_file = _for_agent(in_file, names, written_for["agent"], known, env)
    in_file |= names
    return _with(config, in_file, f"{file.label}: ")


def _written_for(file: _File | None) -> dict[str, str]:
    """The components that a file names, or the defaults."""
    options = {} if file is None else file.options
    return {name: str(options.get(name, getattr(Config, name))) for name in COMPONENTS}


def _assemble(
    wanted: Mapping[str, str | None],
    file: _File | None,
    env: envs.Env | None,
    given: Callable[[Config], Mapping[str, Any]],
) -> tuple[Config, Config]:
    """The configuration before and after what the user gives, which may name the components anew."""
    if file is not None:
        import_modules(file.options.get("imports") or [])
    names = {name: wanted.get(name) or default for name, default in _written_for(file).items()}
    before = _before_the_user(names, file, env)
    return before, _with(before, {**given(before), **names}, "")


def parse(argv: Sequence[str]) -> Config:
    """A configuration from command-line tokens, presets and ``--config``.

    Raises:
        ConfigError: for a wrong option, type or value, an unknown environment, sampler or agent, or a module
            that cannot be imported; one line.
        SystemExit: with code 0 after --help.
    """
    resume = command_line.named(argv, "resume")
    name = command_line.named(argv, "config") if resume is None else _file_of(resume, argv)
    file = None if name is None else _File(name, dict(values.flatten(read_yaml(named_file(name)))))
    import_modules(command_line.imports(argv))
    wants_help = {"--help", "-h"} & {*argv}

    def given(config: Config) -> Mapping[str, Any]:
        if wants_help:
            command_line.show_help(config)
        return command_line.options(argv, config)

    wanted = {name: command_line.named(argv, name) for name in COMPONENTS}
    before, asked = _assemble(wanted, file, None, given)
    if resume is not None:
        check_same(to_mapping(before), to_mapping(asked), f"--resume {resume}")
    return asked


def _file_of(resume: str, argv: Sequence[str]) -> str:
    """The configuration of a run that is to be resumed."""
    for name in ("config", "out"):
        if command_line.named(argv, name) is not None:
            raise ConfigError(f"--resume continues {resume} with its own options: leave out --{name}")
    file = Path(resume) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"--resume {resume}: there is no run, {file} does not exist")
    return str(file)


def make(
    env: str | envs.Env = "khazad_dum", sampler: str = "cem", agent: str = "varibad", **options: Any
) -> Config:
    """A configuration in code: names, and options by dotted name (``**{"ppo.lr": 1e-3}``).

    Args:
        env: a registered name, or an environment of your own.
        sampler: a registered name.
        agent: a registered name.
        **options: by dotted name.

    Raises:
        ConfigError: as ``parse``.
    """
    own = None if isinstance(env, str) else env
    wanted = {"env": env if own is None else own.spec.name, "sampler": sampler, "agent": agent}
    import_modules(options.get("imports") or [])
    return _assemble(wanted, None, own, lambda config: options)[1]


def read(file: Path, env: envs.Env | None = None) -> Config:
    """The configuration that a run's folder keeps in ``config.yaml``.

    Args:
        file: the path of ``config.yaml``.
        env: the run's environment, where it was trained on one of your own that no module registers.

    Raises:
        ConfigError: as ``parse``.
    """
    found = _File(str(file), dict(values.flatten(read_yaml(file))))
    return _assemble({}, found, env, lambda config: {"mesh": "none"})[1]


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """The same configuration with some options changed, by dotted name.

    Raises:
        ConfigError: as ``parse``.
    """
    return _with(config, options, "")
