"""Command line ``python -m roml_jax.render RUN --task mass=1.7 --versus RUN2``, or ``RUN --watch``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from roml_jax import config as configs
from roml_jax import console as output
from roml_jax import envs
from roml_jax import tasks as families
from roml_jax.envs import Env, inside
from roml_jax.envs.base import Rendered
from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.render import live, page, robots, rollouts
from roml_jax.render.rollouts import Played
from roml_jax.run import cli, compile_cache, files, saved
from roml_jax.run import folder as run_folder
from roml_jax.run import parser as parsers

_ROBOT, _WALKER = (".html", ".gif", ".mp4"), (".gif", ".png")
_WALKERS = 64  # walks on a map (.png)
_PORT = 8731
_HISTORY = 12  # checkpoints whose returns a live page lists


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.render",
        description="Shows all episodes of a run's policy on one or several tasks. Output for robots: an "
        "HTML page with a 3-D view (.html) or a film (.gif, .mp4; needs offscreen OpenGL). Output for "
        f"Khazad-Dum: a film (.gif) or a map of {_WALKERS} walks (.png). With --watch: a live page that "
        "follows the checkpoints of a run that trains.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--task", nargs="+", default=[], action="append", metavar="NAME=VALUE",
        help="the task: NAME=VALUE for some of its dimensions, or one value for each of them in order; "
        "dimensions that are not named have the prior's median (default: the median of all). Give --task "
        "several times to show several tasks side by side",
    )  # fmt: skip
    cli.add_run(parser)
    parser.add_argument(
        "--versus", type=Path, metavar="RUN2", help="folder of a second run, shown beside the first"
    )
    cli.add_which(parser)
    parser.add_argument(
        "--seed", type=parsers.seed, default=0, help="random seed of the environment (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, help="path of the new file (default: ENV-TASK.html or ENV-TASK.gif)"
    )
    parser.add_argument(
        "--watch", action="store_true",
        help="serve a page on this machine that shows each new checkpoint of the run, until Ctrl-C (robots)",
    )  # fmt: skip
    parser.add_argument(
        "--port",
        type=functools.partial(parsers.below, 2**16, "65535"),
        default=_PORT,
        help="port of the page of --watch (default: %(default)s)",
    )
    return parser


def _suffixes(name: str, env: Env) -> tuple[str, ...]:
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


def _tasks(env: Env, given: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The tasks to show; see ``rollouts.parse_task``. Prints a warning if one is far from the prior."""
    shown = [rollouts.parse_task(env.family, one) for one in given or [[]]]
    warning = families.far_off(env.family, np.stack(shown))
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    return shown


def _default_out(run: saved.Saved, tasks: Sequence[np.ndarray], suffix: str) -> Path:
    names = run.parts.env.family.names
    words = "-".join(f"{name}={value:.3g}" for name, value in zip(names, tasks[0], strict=True))
    short = len(names) <= 3 and len(tasks) == 1
    return Path(f"{run.config.env}-{words if short else 'task' if len(tasks) == 1 else 'tasks'}{suffix}")


def _runs(first: saved.Saved, versus: Path | None) -> list[saved.Saved]:
    """The runs to show side by side.

    Raises:
        ConfigError: if the two runs differ in environment, episodes or steps; one line.
    """
    if versus is None:
        return [first]
    second = saved.load(versus, first.which)
    saved.check_comparable(first, second)
    return [first, second]


def _play(
    run: saved.Saved, seed: str | None, tasks: Sequence[np.ndarray], key: int, n: int = 1
) -> list[Played]:
    """Episodes of one seed's policy on each task."""
    policy, label = rollouts.of_run(run, run.place(seed))
    return [rollouts.play(policy, run.parts.env, label, task, n, key) for task in tasks]


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
            film.of_env(cast(Rendered, shown), played, part)
        else:
            film.of_robot(robot, played, part, suffix)


def _returns(one: Played) -> str:
    """The returns of the episodes, averaged over robots, as text."""
    by_episode = one.returns.mean(axis=1)
    return ", ".join(f"{value:.{decimals(by_episode)}f}" for value in by_episode)


def _watch(arguments: argparse.Namespace) -> None:
    """Serves the live page until Ctrl-C.

    Raises:
        ConfigError: for options that need a file or a second run, or an environment that is no robot.
    """
    for option in ("out", "versus"):
        if getattr(arguments, option) is not None:
            raise ConfigError(f"--watch shows one run on a page and writes no file: leave out --{option}")
    run_folder.check(arguments.run)
    config = configs.read(arguments.run / run_folder.CONFIG)
    env = envs.from_options(config.env, config.env_options)
    robot = robots.of(env)
    if robot is None:
        raise ConfigError(f"--watch shows robots, but {config.env} has no MuJoCo model")
    tasks, history = _tasks(env, arguments.task), []
    compile_cache.prepare(cache=config.compile_cache)
    console = output.make()

    def newest() -> tuple[str, dict[str, Any]]:
        run = saved.load(arguments.run, arguments.which)
        place = run.place(arguments.run_name)
        played = _play(run, arguments.run_name, tasks, arguments.seed)
        head = f"iteration {run.iterations[place]}: returns "
        history.append(head + "; ".join(map(_returns, played)))
        data = page.data(config.env, robot, played)
        return history[-1], data | {"history": history[-_HISTORY:]}

    shown = live.Live(page.page({"title": f"{config.env}, {arguments.run.name}", "live": True}))
    server = live.serve(shown, arguments.port)
    console.print(f"http://{live.HOST}:{server.server_port} follows {arguments.run}; Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        live.follow(arguments.run, shown, newest, lambda line: output.say(console, line),
                    len(config.plan))  # fmt: skip
    server.shutdown()
    server.server_close()
    console.print("stopped")


def command(argv: Sequence[str]) -> None:
    """Runs the policies and writes the page, film or map; or serves the live page.

    Raises:
        ConfigError: for wrong input, or if a package or OpenGL is missing; one line.
    """
    arguments = _parser().parse_args(argv)
    if arguments.watch:
        _watch(arguments)
        return
    first = saved.load(arguments.run, arguments.which)
    env = first.parts.env
    suffixes, tasks = _suffixes(first.config.env, env), _tasks(env, arguments.task)
    out = files.check_new(arguments.out or _default_out(first, tasks, suffixes[0]), suffixes)
    suffix = out.suffix.lower()
    if robots.of(env) is not None and suffix != ".html":
        from roml_jax.render import film

        film.check(suffix)
    if suffix == ".png" and len(tasks) > 1:
        raise ConfigError("a map (.png) shows one task: give --task once, or use .gif")
    runs = _runs(first, arguments.versus)
    compile_cache.prepare(cache=first.config.compile_cache)
    console = output.make()
    with console.status("running the policy ..."):
        n = _WALKERS if suffix == ".png" else 1
        played = [one for run in runs for one in _play(run, arguments.run_name, tasks, arguments.seed, n)]
        with files.new(out) as part:
            _write(first.config.env, env, played, part, suffix)
    for one in rollouts.labelled(env.family.names, played):
        output.say(console, f"{one.label}: returns by episode {_returns(one)}")
    output.say(console, f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
