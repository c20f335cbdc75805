"""Command line ``python -m roml_jax.render RUN --task mass=1.7 --versus RUN2``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roml_jax.envs import Env, TaskEnv, inside
from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.errors import ConfigError
from roml_jax.evaluate.intervals import decimals
from roml_jax.render import page, rollouts
from roml_jax.render.rollouts import Played
from roml_jax.run import cli, compile_cache, files, saved

_ROBOT, _WALKER = (".html", ".gif", ".mp4"), (".gif", ".png")
_WALKERS = 64  # walks on a map (.png)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m roml_jax.render",
        description="Shows all episodes of a run's policy on one task. Output for robots: an HTML page with "
        "a 3-D view (.html) or a film (.gif, .mp4; needs offscreen OpenGL). Output for Khazad-Dum: a film "
        f"(.gif) or a map of {_WALKERS} walks (.png).",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--task", nargs="+", default=[], metavar="NAME=VALUE",
        help="the task: NAME=VALUE for some of its dimensions, or one value for each of them in order; "
        "dimensions that are not named have the prior's median (default: the median of all)",
    )  # fmt: skip
    cli.add_run(parser)
    parser.add_argument(
        "--versus", type=Path, metavar="RUN2", help="folder of a second run, shown beside the first"
    )
    cli.add_which(parser)
    parser.add_argument(
        "--seed", type=cli.not_negative, default=0, help="random seed of the environment (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, help="path of the new file (default: ENV-TASK.html or ENV-TASK.gif)"
    )
    return parser


def _suffixes(run: saved.Saved) -> tuple[str, ...]:
    """The suffixes of files in which the run's environment can be shown.

    Raises:
        ConfigError: if the environment cannot be shown; one line.
    """
    env, _ = inside(run.parts.env)
    if isinstance(env, TaskEnv):
        return _ROBOT
    if isinstance(env, KhazadDum):
        return _WALKER
    if hasattr(env, "render"):
        return (".gif",)
    raise ConfigError(
        f"{run.config.env} cannot be shown: give the environment a method render(task, states) -> images"
    )


def _default_out(run: saved.Saved, task: np.ndarray, suffix: str) -> Path:
    names = run.parts.env.family.names
    words = "-".join(f"{name}={value:.3g}" for name, value in zip(names, task, strict=True))
    return Path(f"{run.config.env}-{words if len(names) <= 3 else 'task'}{suffix}")


def _runs(first: saved.Saved, versus: Path | None) -> list[saved.Saved]:
    """The runs to show side by side.

    Raises:
        ConfigError: if the two runs differ in environment, episodes or steps; one line.
    """
    if versus is None:
        return [first]
    second = saved.load(versus, first.which)
    for name, what in (("env", "environments"), ("env_options", "options of the environment")):
        if getattr(first.config, name) != getattr(second.config, name):
            raise ConfigError(f"{first.folder} and {versus} have different {what}")
    specs = [run.config.protocol.agent_spec(run.parts.env.spec) for run in (first, second)]
    if len({(spec.episodes, spec.horizon) for spec in specs}) > 1:
        raise ConfigError(f"{first.folder} and {versus} have different numbers of episodes or steps")
    return [first, second]


def _write(env: Env, played: Sequence[Played], part: Path, suffix: str) -> None:
    played = [
        one._replace(states=[[inside(env, state)[1] for state in states] for states in one.states])
        for one in played
    ]
    env, _ = inside(env)
    if isinstance(env, TaskEnv):
        if suffix == ".html":
            part.write_text(page.page(env, played))
        else:
            from roml_jax.render import film

            film.robots(env, played, part, suffix)
    elif isinstance(env, KhazadDum):
        from roml_jax.render import walks

        (walks.still if suffix == ".png" else walks.film)(env, played, part)
    else:
        from roml_jax.render import film

        film.of_env(env, played, part)


def command(argv: Sequence[str]) -> None:
    """Runs the policies and writes the page, film or map.

    Raises:
        ConfigError: for wrong input, or if a package or OpenGL is missing; one line.
    """
    arguments = _parser().parse_args(argv)
    first = saved.load(arguments.run, arguments.which)
    suffixes, env = _suffixes(first), first.parts.env
    task = rollouts.parse_task(env.family, arguments.task)
    out = files.check_new(arguments.out or _default_out(first, task, suffixes[0]), suffixes)
    suffix = out.suffix.lower()
    if isinstance(inside(env)[0], TaskEnv) and suffix != ".html":
        from roml_jax.render import film

        film.check(suffix)
    runs = _runs(first, arguments.versus)
    if first.config.compile_cache:
        compile_cache.enable()
    console = cli.console()
    played = []
    with console.status("running the policy ..."):
        for run in runs:
            policy, label = rollouts.of_run(run, run.place(arguments.run_name))
            n = _WALKERS if suffix == ".png" else 1
            played.append(rollouts.play(policy, env, label, task, n, arguments.seed))
        with files.new(out) as part:
            _write(env, played, part, suffix)
    for one in played:
        by_episode = one.returns.mean(axis=1)
        returns = ", ".join(f"{value:.{decimals(by_episode)}f}" for value in by_episode)
        console.print(f"{one.label}: returns by episode {returns}", soft_wrap=True)
    console.print(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
