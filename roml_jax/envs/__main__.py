"""``python -m roml_jax.envs``: lists all environments; with a name, describes one, or checks it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, cast, get_args

import docstring_parser
import jax
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from roml_jax import config as configs
from roml_jax import console as output
from roml_jax import envs, users_code
from roml_jax.config.command_line import no_engine
from roml_jax.config.values import flag
from roml_jax.envs import door
from roml_jax.envs.physics import EngineName
from roml_jax.errors import ConfigError
from roml_jax.registry import NoOptions, options_class
from roml_jax.run.parser import Parser
from roml_jax.tasks import TaskFamily
from roml_jax.types import Continuous, Discrete, EnvSpec

_TABLE_WIDTH = 150


class Entry(NamedTuple):
    """An environment as ``python -m roml_jax.train --env NAME`` builds it, preset included.

    Attributes:
        name: the registry's name.
        constructor: the registered constructor.
        config: the training's configuration.
        spec: with K and H from the configuration's protocol.
        family: the tasks.
    """

    name: str
    constructor: Callable[..., envs.Env]
    config: configs.Config
    spec: EnvSpec
    family: TaskFamily


def entry(name: str) -> Entry:
    """Builds an environment by name.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: if its preset is wrong.
    """
    constructor = envs.get(name)
    config = configs.make(name)
    env = envs.from_options(name, config.env_options)
    protocol = config.protocol.agent_spec(env.spec)
    spec = dataclasses.replace(env.spec, horizon=protocol.horizon, episodes=protocol.episodes)
    return Entry(name, constructor, config, spec, env.family)


def listing(console: Console, names: Sequence[str]) -> None:
    """Prints a table with a row per environment; on a narrow console, a paragraph per environment.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: if a preset is wrong.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("environment", "observation", "action", "K x H", "tasks: range and prior", "alpha", "what"):
        right = head in ("observation", "alpha")
        table.add_column(head, justify="right" if right else "left", max_width=80, overflow="fold")
    for e in map(entry, names):
        protocol = f"{e.spec.episodes} x {e.spec.horizon}"
        size, action, alpha = str(e.spec.obs_size), _action(e.spec.action), f"{e.config.alpha:g}"
        tasks, what = "\n".join(_grouped_tasks(e.family)), _summary(e.constructor)
        table.add_row(*map(Text, (e.name, size, action, protocol, tasks, alpha, what)))
        if console.width < _TABLE_WIDTH:
            facts = f"observation {size}; action {action}; K x H {protocol}; alpha {alpha}"
            console.print(Text(e.name, style="bold"))
            console.print(Padding(Text(f"{what}\n{facts}\n{tasks}"), (0, 0, 1, 4)))
    if console.width >= _TABLE_WIDTH:
        console.print(table)


def details(console: Console, name: str) -> None:
    """Prints the description, observation, tasks and options of one environment.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: if its preset is wrong.
    """
    e = entry(name)
    console.print(Text(name, style="bold"))
    console.print()
    console.print(Text(_docstring(e.constructor)))
    console.print()
    console.print(
        f"{e.spec.episodes} episodes of {e.spec.horizon} steps per task, alpha {e.config.alpha:g}; "
        f"action: {_action(e.spec.action)}"
    )
    parts = [
        (part, f"{where.start}:{where.stop}", str(where.stop - where.start))
        for part, where in e.spec.obs_slices.items()
    ]
    output.show_table(console, _table((f"observation ({e.spec.obs_size})", "slice", "numbers"), parts))
    output.show_table(console, _table(("task", "range", "prior"), _tasks(e.family)))
    options = _options(e.constructor, e.config.env_options)
    if options:
        output.show_table(console, _table(("option", "default", "what"), options))
    else:
        console.print("\nno options")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        # only the last column, which holds text, wraps
        last = i == len(heads) - 1
        table.add_column(head, no_wrap=not last, overflow="fold", max_width=100 if last else None)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _docstring(constructor: Callable[..., Any]) -> str:
    return inspect.getdoc(constructor) or "(not documented)"


def _summary(constructor: Callable[..., Any]) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join(_docstring(constructor).split("\n\n")[0].split())


def _action(action: Discrete | Continuous) -> str:
    if isinstance(action, Discrete):
        return f"discrete, {action.n}"
    return f"continuous, {action.size}"


def _interval(low: float, high: float) -> str:
    left = f"({low:g}" if math.isinf(low) else f"[{low:.4g}"
    return f"{left}, {high:.4g}{')' if math.isinf(high) else ']'}"


def _tasks(family: TaskFamily) -> list[tuple[str, str, str]]:
    """Name, range and prior of each task dimension."""
    priors = [text or "not described" for text in family.priors or ("",) * len(family.names)]
    ranges = [_interval(*bounds) for bounds in family.ranges]
    return list(zip(family.names, ranges, priors, strict=True))


def _grouped_tasks(family: TaskFamily) -> list[str]:
    """A line per group of consecutive dimensions with the same range and prior."""
    groups = groupby(_tasks(family), key=lambda task: task[1:])
    return [
        f"{', '.join(name for name, _, _ in same)} in {interval}: {prior}"
        for (interval, prior), same in groups
    ]


def _options(constructor: Callable[..., Any], options: Any) -> list[tuple[str, str, str]]:
    """Flag, value and help of each option; values come from the environment's preset."""
    kind = options_class(constructor)
    if kind is NoOptions:
        return []
    help_texts = {
        param.arg_name: " ".join((param.description or "").split())
        for base in reversed(kind.__mro__[:-1])  # a subclass's text replaces its base's
        for param in docstring_parser.parse_from_object(base).params
    }
    return [
        (
            flag(f"env.{field.name}"),
            str(getattr(options, field.name)),
            help_texts.get(field.name, ""),
        )
        for field in dataclasses.fields(kind)
    ]


def checked(name: str, engine: EngineName | None) -> envs.Env:
    """The environment by name on an engine, not yet checked.

    Args:
        name: registered.
        engine: its name; None for the environment's own.

    Raises:
        ConfigError: for an unknown name, an engine that the environment does not have, or an environment that
            cannot be built.
    """
    try:
        with door.unchecked():
            constructor = envs.get(name)
            fields = {field.name for field in dataclasses.fields(options_class(constructor))}
            given = {"env.physics": engine} if engine and "physics" in fields else {}
            env = envs.from_options(name, configs.make(name, **given).env_options)
        if engine is None or given:
            return env
        if not isinstance(envs.inside(env)[0], envs.TaskEnv):
            raise ConfigError(f"{no_engine(name)}: leave out --physics")
        return cast(Any, env).on(engine)
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{name}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the list or one environment; returns the exit code."""
    parser = Parser(
        prog="python -m roml_jax.envs", description="List all environments, describe one, or check one."
    )
    parser.add_argument("env", nargs="?", help="environment to describe: its observation, tasks and options")
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action="append", default=[],
        help="import this module, which registers environments; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="try the ends of the environment's tasks: every edit must change something, and the engine must "
        "simulate it; exit code 1 if not",
    )  # fmt: skip
    parser.add_argument(
        "--physics", choices=get_args(EngineName),
        help="engine that --check compares with plain MuJoCo (default: the environment's own); 'mjx' may "
        "take minutes to compile",
    )  # fmt: skip
    try:
        args = parser.parse_args(argv)
        if args.check and args.env is None:
            parser.error("--check needs the name of an environment")
        if args.physics and not args.check:
            parser.error("--physics needs --check")
        name, console = args.env, output.make()
        with users_code.in_one_line():
            configs.import_modules(args.imports)
            if name is None:
                listing(console, envs.names())
                console.print("For one environment in detail: python -m roml_jax.envs NAME")
            elif args.check:
                report = envs.check(checked(name, args.physics))
                door.show(console, report)
                return int(not report.passed)
            else:
                details(console, name)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if "--physics" not in " ".join(sys.argv):
        jax.config.update("jax_platforms", "cpu")  # a listing needs no accelerator
    sys.exit(main())
