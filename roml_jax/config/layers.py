"""Assembles a run's options from several sources; a later source overrides an earlier one.

The order is: defaults, ``configs/ENV.yaml``, ``configs/AGENT.yaml``, ``configs/ENV_AGENT.yaml``,
``--config FILE``, and the options of the command line or the caller. A preset or file is written for one
sampler, environment and agent. If another one is chosen, options that exist only for the first are ignored.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from roml_jax import agents, envs, samplers, users_code
from roml_jax.config import command_line, seed_plan, values
from roml_jax.config.help import PRINTS
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

_OBJECT = "-object"  # follows the name of a registered environment in the configuration of an object


def import_modules(names: Sequence[str]) -> None:
    """Imports modules that register environments, agents or samplers.

    Raises:
        ConfigError: if a module cannot be imported or registers nothing; one line.
    """

    def registered() -> set[tuple[str, str]]:
        return {(kind.__name__, name) for kind in (envs, agents, samplers) for name in kind.names()}

    for name in names:
        loaded, before = name in sys.modules, registered()
        try:
            importlib.import_module(name)
        except Exception as error:  # a user's module may raise any error
            what = users_code.explained(error) or users_code.one_line(error)
            raise ConfigError(f"--import {name} failed: {what}") from error
        users_code.named(name)
        if not loaded and registered() == before:
            del sys.modules[name]  # so that the next attempt is rejected, too
            raise ConfigError(
                f"--import {name}: the module registers nothing; it must call, for example, "
                "roml_jax.envs.register(NAME, maker)"
            )


class _File(NamedTuple):
    """A file of options: its name in error messages, its options by dotted name, and its run's folder."""

    label: str
    options: dict[str, Any]
    run: Path | None = None


def _read_file(label: str, path: Path, run: Path | None = None) -> _File:
    """A file of options.

    Raises:
        ConfigError: for a file that cannot be read, or that names another file or a run to resume; one line.
    """
    options = dict(values.flatten(read_yaml(path)))
    _refuse_sources(options, f"{label}: ", "options of the command line, not of a file")
    return _File(label, options, run)


def _refuse_sources(options: Mapping[str, Any], source: str, why: str) -> None:
    """Rejects options that say where other options come from, where they would be ignored."""
    named = [name for name in ("config", "resume") if options.get(name) is not None]
    if named:
        raise ConfigError(f"{source}{' and '.join(named)}: config and resume are {why}")


def _modules(options: Mapping[str, Any]) -> list[str]:
    """The modules to import."""
    return [str(name) for name in values.split(options.get("imports") or [])]


def _with(config: Config, options: Mapping[str, Any], source: str) -> Config:
    """Overrides options of a configuration with those of one source.

    Args:
        config: the configuration.
        options: options of the source, by dotted name.
        source: name of the source, used as the prefix of error messages.

    Raises:
        ConfigError: for an unknown option or a wrong value; one line.
    """
    valid = every_option(config)
    options = {SHORT.get(name, name) if SHORT.get(name) in valid else name: v for name, v in options.items()}
    if "seeds" in options:
        options["seeds"] = seed_plan.expand(options["seeds"])
    if "imports" in options:
        options["imports"] = _modules(options)
    run = options.get("init_from")
    if isinstance(run, str | Path) and not values.is_none(run):
        options["init_from"] = Path(run).absolute()  # the saved path holds in every working folder
    for name in options:
        if name not in valid:
            command_line.refuse(name, [*valid], config.env, source)
    try:
        return values.replace(config, options, rename=rename)
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from None


def _without(options: Mapping[str, Any], component: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Drops options of a component ("env", "sampler") that are not valid for the chosen one.

    Args:
        options: options by dotted name.
        component: prefix of the options that may be dropped.
        known: the valid options, by dotted name.
    """
    return {
        key: value for key, value in options.items() if not key.startswith(f"{component}.") or key in known
    }


def _for_agent(
    options: Mapping[str, Any], names: Mapping[str, str], agent: str, known: Mapping[str, Any], env: Any
) -> dict[str, Any]:
    """Drops options that are valid only for the agent they were written for.

    Args:
        options: options by dotted name.
        names: the chosen components.
        agent: the agent that the options were written for.
        known: the valid options for the chosen agent, by dotted name.
        env: an environment object, or None.
    """
    other_options = to_mapping(schema({**names, "agent": agent}, env)())
    return {key: value for key, value in options.items() if key in known or key not in other_options}


def _before_the_user(names: Mapping[str, str], file: _File | None, env: envs.Env | None) -> Config:
    """The configuration from defaults, presets and file, for the named components."""
    config = schema(names, env)()
    valid = to_mapping(config)
    # an environment's preset is written for the paper's sampler and agent
    options = _without(preset(names["env"]) if env is None else {}, "sampler", valid)
    options = _for_agent(options, names, Config.agent, valid, env)
    options |= _without(preset(names["agent"], f"{names['env']}_{names['agent']}"), "sampler", valid)
    config = _with(config, options, f"preset {names['env']}: ")
    if file is None:
        return config
    in_file = dict(file.options)
    written_for = _written_for(file)
    for component in ("env", "sampler"):
        if names[component] != written_for[component]:
            in_file = _without(in_file, component, valid)
    if names["agent"] != written_for["agent"]:
        in_file = _for_agent(in_file, names, written_for["agent"], valid, env)
    in_file |= names
    return _with(config, in_file, f"{file.label}: ")


def _written_for(file: _File | None) -> dict[str, str]:
    """The environment, sampler and agent that a file names, or the default ones."""
    options = {} if file is None else file.options
    return {name: str(options.get(name, getattr(Config, name))) for name in COMPONENTS}


def _assemble(
    wanted: Mapping[str, str | None],
    file: _File | None,
    env: envs.Env | None,
    given: Callable[[Config], Mapping[str, Any]],
) -> tuple[Config, Config]:
    """The configurations without and with the user's options.

    Args:
        wanted: the components that the user names; None for those of the file or the defaults.
        file: a file of options, or None.
        env: an environment object, or None.
        given: returns the user's options, from the configuration without them.
    """
    if file is not None:
        modules = _modules(file.options)
        if file.run is not None:
            users_code.check_findable(modules, file.run)
        import_modules(modules)
    names = {name: wanted.get(name) or default for name, default in _written_for(file).items()}
    if file is not None and file.run is not None and env is None:
        _check_object(names["env"], file.run)
    before = _before_the_user(names, file, env)
    asked = {**given(before), **names}
    if file is not None and "imports" in asked:  # those of the file have registered what it names
        asked["imports"] = list(dict.fromkeys([*_modules(file.options), *_modules(asked)]))
    return before, _with(before, asked, "")


def parse(argv: Sequence[str]) -> Config:
    """Builds a configuration from command-line tokens, presets and ``--config``.

    Raises:
        ConfigError: for a wrong option, type or value, an unknown environment, sampler or agent, or a module
            that cannot be imported; one line.
        SystemExit: with code 0 after --help, --help-all and --version.
    """
    resume = command_line.named(argv, "resume")
    name = command_line.named(argv, "config") if resume is None else _file_of(resume, argv)
    file = None
    if name is not None:
        file = _read_file(name, named_file(name), None if resume is None else Path(resume))
    import_modules(command_line.imports(argv))
    asked_help = next((PRINTS[token] for token in argv if token in PRINTS), None)

    def given(config: Config) -> Mapping[str, Any]:
        if asked_help is not None:
            asked_help(config)
            raise SystemExit(0)
        return command_line.options(argv, config)

    components = {name: command_line.named(argv, name) for name in COMPONENTS}
    before, asked = _assemble(components, file, None, given)
    if resume is not None:
        check_same(to_mapping(before), to_mapping(asked), f"--resume {resume}")
    return asked


def _file_of(resume: str, argv: Sequence[str]) -> str:
    """Path of the ``config.yaml`` of a run to resume."""
    for name in ("config", "out"):
        if command_line.named(argv, name) is not None:
            raise ConfigError(f"--resume uses the options and the folder of {resume}: leave out --{name}")
    file = Path(resume) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"--resume {resume} is not a run's folder: {file} does not exist")
    return str(file)


def _check_object(name: str, run: Path) -> None:
    """Refuses a run on an environment object of which the package has only a part; see ``_object_name``."""
    if name.endswith(_OBJECT) and name not in envs.names():
        raise ConfigError(
            f"{run} was trained on an environment object made of {name.removesuffix(_OBJECT)!r}, which its "
            "folder does not keep: open it with roml_jax.open(FOLDER, env=...), or give --import MODULE, "
            f"where MODULE registers what makes the object as {name!r}"
        )


def _object_name(env: envs.Env) -> str:
    """The name under which a run keeps an environment object, which may be a wrapper of a registered one.

    The registered name would stand for the environment without the wrapper when the run's folder is read.
    """
    name = env.spec.name
    is_ours = name in envs.names() and users_code.is_ours(envs.get(name))
    return f"{name}{_OBJECT}" if is_ours else name


def make(
    env: str | envs.Env = "khazad_dum", sampler: str = "cem", agent: str = "varibad", **options: Any
) -> Config:
    """Builds a configuration in Python.

    Args:
        env: the name of a registered environment, or an environment object.
        sampler: the name of a registered sampler.
        agent: the name of a registered agent.
        **options: options by dotted name (``**{"ppo.lr": 1e-3}``).

    Raises:
        ConfigError: as ``parse``.
    """
    custom_env = None if isinstance(env, str) else env
    components = {
        "env": env if isinstance(env, str) else _object_name(env),
        "sampler": sampler,
        "agent": agent,
    }
    _refuse_sources(
        options, "", "options of the command line; here, give a file's options as arguments, and resume "
        "a run with python -m roml_jax.train --resume FOLDER"
    )  # fmt: skip
    import_modules(_modules(options))
    return _assemble(components, None, custom_env, lambda config: options)[1]


def read(file: Path, env: envs.Env | None = None) -> Config:
    """Reads a run's ``config.yaml``. The option ``mesh`` is set to "none".

    Args:
        file: the path of ``config.yaml``.
        env: the run's environment; required only if it is an object that no module registers.

    Raises:
        ConfigError: as ``parse``.
    """
    saved = _read_file(str(file), file, file.parent)
    return _assemble({}, saved, env, lambda config: {"mesh": "none"})[1]


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """Returns a copy of a configuration with some options changed.

    Args:
        config: the configuration.
        options: the new values, by dotted name.

    Raises:
        ConfigError: as ``parse``.
    """
    return _with(config, options, "")
