"""Command line ``python -m roml_jax.evaluate RUN --out returns.csv``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from roml_jax.evaluate import records as recorded
from roml_jax.evaluate import tables
from roml_jax.run import cli, compile_cache, files, saved


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m roml_jax.evaluate",
        description="Evaluates the learners of a run, finished or stopped, on held-out tasks with greedy "
        "actions. Prints mean, CVaR and VaR of the returns, and returns by episode and by task. By default "
        "the tasks are those of the run's final test.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "--tasks", type=cli.positive, help="number of tasks (default: that of the run's final test)"
    )
    parser.add_argument(
        "--seed", type=cli.not_negative,
        help="random seed of tasks and environments (default: the run's eval.seed)",
    )  # fmt: skip
    cli.add_which(parser)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="evaluate on a grid over the task range, not on draws of the prior",
    )
    parser.add_argument(
        "--out", type=Path, help="new .csv or .parquet file with one row per seed, task and episode"
    )
    return parser


def command(argv: Sequence[str]) -> None:
    """Evaluates a run's learners, prints tables and writes the file ``--out``.

    Raises:
        ConfigError: for wrong input, before anything is computed; one line.
    """
    arguments = _parser().parse_args(argv)
    if arguments.out is not None:
        recorded.check_format(files.check_new(arguments.out, recorded.SUFFIXES))
    run = saved.load(arguments.run, arguments.which)
    if run.config.compile_cache:
        compile_cache.enable()
    console = cli.console()
    n = arguments.tasks or run.config.eval.test_tasks
    with console.status("evaluating ..."):
        records = recorded.collect(run, n, arguments.seed, "grid" if arguments.grid else "prior")
    config = run.config
    kind = "on a grid over the task range" if arguments.grid else "from the prior"
    console.print(
        f"[bold]{config.env}[/], {config.sampler} x {config.agent}: {len(records.tasks)} tasks {kind}, "
        f"{records.returns.shape[2]} episodes each, learner [bold]{arguments.which}[/]\n",
        soft_wrap=True,
    )
    tables.show(console, records)
    if arguments.out is not None:
        with files.new(arguments.out) as part:
            recorded.write(records, part, arguments.out.suffix)
        console.print(f"wrote {records.returns.size:,} rows to {arguments.out}", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
