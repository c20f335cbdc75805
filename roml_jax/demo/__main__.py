"""Command line ``python -m roml_jax.demo [NAME] [--task mass=2]``: trained policies side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from roml_jax import console as output
from roml_jax.demo import shipped
from roml_jax.envs import Env
from roml_jax.errors import ConfigError, unknown
from roml_jax.render import rollouts, show
from roml_jax.run import cli, compile_cache
from roml_jax.run import parser as parsers

_SECONDS = 5.0  # how long to wait for the browser's answer
_OPEN = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.demo",
        description="Shows trained policies that come with the package, RoML beside VariBAD, on one task: "
        "robots on a page with a 3-D view, Khazad-Dum as a map of walks. Without NAME: lists the demos.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the demo, as listed")
    show.add_options(parser, "the demo's task")
    parser.add_argument("--out", type=Path, help="path of the new file (default: NAME-TASK.html or .png)")
    parser.add_argument("--no-open", action="store_true", help="write the file, but do not open it")
    return parser


def _listing() -> str:
    """The demos, with the training and the held-out returns of their policies."""
    lines = []
    for name, demo in shipped.DEMOS.items():
        lines.append(f"{name}: {demo.shows} (--task {' '.join(demo.task)})")
        for method, (label, _) in shipped.METHODS.items():
            known = shipped.about(shipped.path_of(name, method))
            lines.append(
                f"  {label:8} {known['frames']:.3g} frames; on {known['tasks']} held-out tasks: mean "
                f"{known['mean']:.3g}, CVaR {known['alpha']:g} {known['cvar']:.3g}"
            )
    return "\n".join([*lines, "", "roml-jax demo NAME shows a demo; --help lists the options"])


def _default_out(name: str, env: Env, tasks: Sequence[np.ndarray]) -> Path:
    """A path that is free: the second demo of the same task is NAME-TASK-2.html."""
    suffixes = show.suffixes(name, env)
    suffix = ".png" if ".png" in suffixes and len(tasks) == 1 else suffixes[0]
    first = show.default_out(name, env.family, tasks, suffix)
    path, count = first, 1
    while path.exists():
        count += 1
        path = first.with_name(f"{first.stem}-{count}{suffix}")
    return path


def open_in_browser(path: Path) -> bool:
    """Opens a file in the browser, if this machine has a display; returns whether it did.

    A process of its own starts the browser, so that this one neither waits for it nor shows its output.
    """
    if sys.platform != "darwin" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return False
    quiet = subprocess.DEVNULL
    opener = subprocess.Popen(
        [sys.executable, "-c", _OPEN, path.resolve().as_uri()],
        stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True,
    )  # fmt: skip
    try:
        return opener.wait(_SECONDS) == 0
    except subprocess.TimeoutExpired:  # a browser that stays with the process that started it
        return True


def command(argv: Sequence[str]) -> None:
    """Lists the demos, or plays one, writes its file and opens it.

    Raises:
        ConfigError: for wrong input; one line.
    """
    arguments = _parser().parse_args(argv)
    name = arguments.name
    if name is None:
        if argv:
            raise ConfigError(f"no demo is named: give NAME first, one of {', '.join(shipped.DEMOS)}")
        print(_listing())
        return
    if name not in shipped.DEMOS:
        raise unknown("demo", name, shipped.DEMOS)
    compile_cache.prepare(cache=True)
    env = shipped.make_env(name)
    tasks = [rollouts.parse_task(env.family, shipped.DEMOS[name].task)]
    if arguments.task:
        tasks = show.tasks_of(env.family, arguments.task)
    out = arguments.out or _default_out(name, env, tasks)
    show.check_out(out, name, env, tasks, len(shipped.METHODS))
    runs = shipped.load(name, env)
    labels = [label for label, _ in shipped.METHODS.values()]
    made = rollouts.of_runs(runs, [0] * len(runs))
    policies = [(policy, label) for (policy, _), label in zip(made, labels, strict=True)]
    show.to_file(name, env, policies, tasks, arguments.seed, out, output.make())
    opened = not arguments.no_open and open_in_browser(out)
    print(f"{'opened' if opened else 'wrote'} {out.resolve()}")  # one line, also of a long path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    jax.config.update("jax_platforms", "cpu")  # two robots need no accelerator, and leave its memory alone
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
