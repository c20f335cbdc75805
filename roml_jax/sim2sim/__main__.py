"""Command line ``python -m roml_jax.sim2sim RUN``: a policy on the engines and in plain MuJoCo."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from roml_jax import console as output
from roml_jax.run import cli, compile_cache, saved
from roml_jax.run import parser as parsers
from roml_jax.sim2sim import compare

_PERCENT = 100.0


def _percent(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return number


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.sim2sim",
        description="Runs a run's policy on MuJoCo's C engine and, with --mjx, on MJX, and in plain MuJoCo "
        "(mj_step on an edited model, in double precision), on the same tasks from the same initial states. "
        "Prints the differences of the returns. The exit code is 1 if one exceeds the tolerance.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--tasks",
        type=parsers.positive,
        default=32,
        help="number of tasks from the prior (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=parsers.seed,
        help="random seed of tasks and initial states (default: the run's eval.seed)",
    )  # fmt: skip
    cli.add_which(parser)
    cli.add_run(parser)
    parser.add_argument(
        "--mjx", action="store_true", help="also run on MJX, which compiles for a minute or more"
    )
    parser.add_argument(
        "--tolerance", type=_percent, default=0.5, metavar="PERCENT",
        help="largest difference of the mean return, in percent of the mean size of the returns "
        "(default: %(default)s)",
    )  # fmt: skip
    return parser


def command(argv: Sequence[str]) -> bool:
    """Compares a run's policy between engines and prints a table; returns whether all agree.

    Raises:
        ConfigError: for wrong input; one line.
    """
    arguments = _parser().parse_args(argv)
    run = saved.load(arguments.run, arguments.which)
    compile_cache.prepare(cache=run.config.compile_cache)
    console, config = output.make(), run.config
    seed = config.eval.seed if arguments.seed is None else arguments.seed
    engines = compare.ENGINES if arguments.mjx else compare.ENGINES[:1]
    with console.status("simulating ..."):
        compared = compare.collect(run, engines, arguments.tasks, seed, run.place(arguments.run_name))
    output.say(
        console,
        Text.assemble(
            (config.env, "bold"),
            f", {config.sampler} x {config.agent}, learner ",
            (arguments.which, "bold"),
            f": {arguments.tasks} tasks from the prior, {compared.returns[compare.PLAIN].shape[1]} episodes "
            "each; greedy actions, the same initial states\n",
        ),
    )
    return compare.show(console, compared, arguments.tolerance / _PERCENT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 if returns differ, or 2 for wrong input."""
    agreed: list[bool] = []
    code = cli.run(lambda arguments: agreed.append(command(arguments)), argv)
    return code or int(agreed == [False])


if __name__ == "__main__":
    sys.exit(main())
