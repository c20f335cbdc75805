"""Command line ``python -m roml_jax.render RUN --task mass=1.7 --versus RUN2``, or ``RUN --watch``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roml_jax import config as configs
from roml_jax import console as output
from roml_jax import envs
from roml_jax.errors import ConfigError
from roml_jax.render import live, page, robots, rollouts, show
from roml_jax.run import cli, compile_cache, saved
from roml_jax.run import folder as run_folder
from roml_jax.run import parser as parsers

_PORT = 8731
_HISTORY = 12  # checkpoints whose returns a live page lists


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.render",
        description="Shows all episodes of a run's policy on one or several tasks. Output for robots: an "
        "HTML page with a 3-D view (.html) or a film (.gif, .mp4; needs offscreen OpenGL). Output for "
        f"Khazad-Dum: a film (.gif) or a map of {show.WALKERS} walks (.png). With --watch: a live page that "
        "follows the checkpoints of a run that trains.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    show.add_options(parser, "the median of all")
    cli.add_run(parser)
    parser.add_argument(
        "--versus", type=Path, metavar="RUN2", help="folder of a second run, shown beside the first"
    )
    cli.add_which(parser)
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
    tasks, history = show.tasks_of(env.family, arguments.task), []
    show.check_views(tasks)
    simulator = rollouts.simulator(env)
    compile_cache.prepare(cache=config.compile_cache)
    console = output.make()

    def newest() -> tuple[str, dict[str, Any]]:
        run = saved.load(arguments.run, arguments.which)
        place = run.place(arguments.run_name)
        policy, label = rollouts.of_run(run, place)
        played = [rollouts.play(policy, simulator, label, task, seed=arguments.seed) for task in tasks]
        head = f"iteration {run.iterations[place]}: returns "
        history.append(head + "; ".join(map(show.returns, played)))
        data = page.data(config.env, robot, played)
        return history[-1], data | {"history": history[-_HISTORY:]}

    shown = live.Live(page.page({"title": f"{config.env}, {arguments.run.resolve().name}", "live": True}))
    server = live.serve(shown, arguments.port)
    output.say(console, f"http://{live.HOST}:{server.server_port} follows {arguments.run}; Ctrl-C ends it")
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
    name, env = first.config.env, first.parts.env
    suffix, tasks = show.suffixes(name, env)[0], show.tasks_of(env.family, arguments.task)
    out = arguments.out or show.default_out(name, env.family, tasks, suffix)
    runs = _runs(first, arguments.versus)
    show.check_out(out, name, env, tasks, len(runs))
    compile_cache.prepare(cache=first.config.compile_cache)
    console = output.make()
    policies = rollouts.of_runs(runs, [run.place(arguments.run_name) for run in runs])
    show.to_file(name, env, policies, tasks, arguments.seed, out, console)
    output.say(console, f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
