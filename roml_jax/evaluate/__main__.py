"""The command line: ``python -m roml_jax.evaluate RUN --out returns.csv``."""

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
        description="Lets the learners of a run, finished or stopped, act greedily on held-out tasks; prints "
        "mean, CVaR and VaR, returns by episode and against the task. Without other options the tasks are "
        "those of the run's final test.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--tasks", type=cli.positive, help="how many (default: as many as the final test)")
    parser.add_argument(
        "--seed", type=cli.not_negative, help="of tasks and environments (default: the run's eval.seed)"
    )
    cli.add_which(parser)
    parser.add_argument(
        "--grid", action="store_true", help="tasks on a grid over their range, not draws of the prior"
    )
    parser.add_argument(
        "--out", type=Path, help="a new file, .csv or .parquet, with a row per run, task and episode"
    )
    return parser


def command(argv: Sequence[str]) -> None:
    """Evaluates, prints and writes.

    Raises:
        ConfigError: for wrong input, before anything is computed; one line.
    """
    given = _parser().parse_args(argv)
    if given.out is not None:
        recorded.check_format(files.check_new(given.out, recorded.SUFFIXES))
    run = saved.load(given.run, given.which)
    if run.config.compile_cache:
        compile_cache.enable()
    console = cli.console()
    n = given.tasks or run.config.eval.test_tasks
    with console.status("evaluating ..."):
        records = recorded.collect(run, n, given.seed, "grid" if given.grid else "prior")
    config = run.config
    kind = "on a grid over their range" if given.grid else "from the prior"
    console.print(
        f"[bold]{config.env}[/], {config.sampler} x {config.agent}: {len(records.tasks)} tasks {kind}, "
        f"{records.returns.shape[2]} episodes each, the learner [bold]{given.which}[/]\n",
        soft_wrap=True,
    )
    tables.show(console, records)
    if given.out is not None:
        with files.new(given.out) as part:
            recorded.write(records, part, given.out.suffix)
        console.print(f"{records.returns.size:,} rows in {given.out}", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
