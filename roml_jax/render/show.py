"""Plays policies on tasks, and writes what they do to a page, a film or a map."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from roml_jax import console as output
from roml_jax import tasks as families
from roml_jax.deploy.policy import Policy
from roml_jax.envs import Env, inside
from roml_jax.envs.base import Rendered
from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.render import page, robots, rollouts
from roml_jax.render.rollouts import Played
from roml_jax.run import files
from roml_jax.run import parser as parsers
from roml_jax.tasks import TaskFamily

WALKERS = 64  # walks on a map (.png)
_VIEWS = 16  # of a page, each with a WebGL context
_ROBOT, _WALKER = (".html", ".gif", ".mp4"), (".gif", ".png")


def add_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds ``--task`` and ``--seed``: what to play.

    Args:
        parser: of the command.
        default: the task without ``--task``, in words.
    """
    parser.add_argument(
        "--task", nargs="+", default=[], action="append", metavar="NAME=VALUE",
        help="the task: NAME=VALUE for some of its dimensions, or one value for each of them in order; "
        f"dimensions that are not named have the prior's median (default: {default}). Give --task several "
        "times to show several tasks side by side",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=parsers.seed, default=0, help="random seed of the environment (default: 0)"
    )


def suffixes(name: str, env: Env) -> tuple[str, ...]:
    """The suffixes of files in which an environment can be shown.

    Raises:
        ConfigError: if the environment cannot be shown; one line.
    """
    if robots.of(env) is not None:
        return _ROBOT
    shown, _ = inside(env)
    if isinstance(shown, KhazadDum):
        return _WALKER
    if hasattr(shown, "render"):
        return (".gif",)
    raise ConfigError(f"{name} cannot be shown: give the environment a method render(task, states) -> images")


def tasks_of(family: TaskFamily, given: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The tasks to show. Prints a warning if one is far from the prior.

    Args:
        family: the task family.
        given: the words of each ``--task``; see ``rollouts.parse_task``.

    Raises:
        ConfigError: as ``rollouts.parse_task``.
    """
    drawn = rollouts.prior_draws(family)
    shown = [rollouts.parse_task(family, one, drawn) for one in given or [[]]]
    warning = families.far_off(family, np.stack(shown), drawn)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    return shown


def default_out(name: str, family: TaskFamily, tasks: Sequence[np.ndarray], suffix: str) -> Path:
    """The path of a file without ``--out``: the environment's name, and its task if that is short."""
    words = "-".join(f"{name}={value:.3g}" for name, value in zip(family.names, tasks[0], strict=True))
    short = len(family.names) <= 3 and len(tasks) == 1
    return Path(f"{name}-{words if short else 'task' if len(tasks) == 1 else 'tasks'}{suffix}")


def check_views(tasks: Sequence[np.ndarray], runs: int = 1) -> None:
    """Refuses more views on a page than browsers draw.

    Raises:
        ConfigError: one line.
    """
    if runs * len(tasks) > _VIEWS:
        raise ConfigError(
            f"a page shows at most {_VIEWS} views, as many as browsers draw; {runs} run(s) on {len(tasks)} "
            f"tasks are {runs * len(tasks)}: give fewer --task"
        )


def check_out(out: Path, name: str, env: Env, tasks: Sequence[np.ndarray], runs: int = 1) -> None:
    """Checks, before anything is played, that a file can be made on this machine.

    Args:
        out: path of the new file.
        name: the environment's name.
        env: the environment.
        tasks: tasks (d,).
        runs: number of runs.

    Raises:
        ConfigError: if the suffix is wrong, the file exists, a map is to show several tasks, or a film needs
            OpenGL or an encoder that is missing; one line.
    """
    files.check_new(out, suffixes(name, env))
    suffix = out.suffix.lower()
    if suffix == ".html":
        check_views(tasks, runs)
    if robots.of(env) is not None and suffix != ".html":
        from roml_jax.render import film

        film.check(suffix)
    if suffix == ".png" and len(tasks) > 1:
        raise ConfigError("a map (.png) shows one task: give --task once, or use .gif")


def _write(name: str, env: Env, played: Sequence[Played], part: Path, suffix: str) -> None:
    robot, (shown, _) = robots.of(env), inside(env)
    if robot is not None and suffix == ".html":
        part.write_text(page.page(page.data(name, robot, played)))
    elif isinstance(shown, KhazadDum):
        from roml_jax.render import walks

        (walks.still if suffix == ".png" else walks.film)(shown, played, part)
    else:
        from roml_jax.render import film

        if robot is None:
            film.of_env(cast(Rendered, shown), played, part)  # ``suffixes`` has checked it
        else:
            film.of_robot(robot, played, part, suffix)


def returns(one: Played) -> str:
    """The returns of the episodes, averaged over robots, as text."""
    by_episode = one.returns.mean(axis=1)
    return ", ".join(f"{value:.{decimals(by_episode)}f}" for value in by_episode)


def to_file(
    name: str, env: Env, policies: Sequence[tuple[Policy, str]], tasks: Sequence[np.ndarray], seed: int,
    out: Path, console: Console,
) -> None:  # fmt: skip
    """Plays policies on the same tasks from the same starts, writes the file and prints the returns.

    Args:
        name: the environment's name.
        env: the environment that all policies were trained on.
        policies: the policies and their labels.
        tasks: tasks (d,).
        seed: random seed of the environment.
        out: path of the new file, as ``check_out`` checks it.
        console: where to print.

    Raises:
        ConfigError: if the file cannot be written; one line.
    """
    suffix = out.suffix.lower()
    with console.status("running the policy ..."), files.new(out) as part:
        part.touch()  # a folder that cannot be written to is reported before anything is played
        n, simulator = WALKERS if suffix == ".png" else 1, rollouts.simulator(env)
        played = [
            rollouts.play(policy, simulator, label, task, n, seed)
            for policy, label in policies
            for task in tasks
        ]
        _write(name, env, played, part, suffix)
    for one in rollouts.labelled(env.family.names, played):
        output.say(console, f"{one.label}: returns by episode {returns(one)}")
