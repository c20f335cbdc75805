"""Command line ``python -m roml_jax.evaluate RUN --versus RUN2 --out returns.csv``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from roml_jax import console as output
from roml_jax.evaluate import as_json, tables, verdict, versus
from roml_jax.evaluate import records as recorded
from roml_jax.evaluate.records import Records
from roml_jax.evaluate.versus import Versus
from roml_jax.run import cli, compile_cache, files, saved
from roml_jax.run import parser as parsers
from roml_jax.run.saved import Saved

_STDOUT = Path("-")


class _Found(NamedTuple):
    """Results of the command: of the run, and of the comparisons with a second run."""

    records: Records
    settings: list[verdict.Setting]
    against: list[Versus]


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.evaluate",
        description="Evaluates the learners of a run, finished or stopped, on held-out tasks with greedy "
        "actions. Prints mean, CVaR and VaR of the returns, early ends of episodes, the worst tasks, and "
        "returns by episode and by task. With a second run, prints the differences on the same tasks. By "
        "default the tasks are those of the run's final test.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "other", type=Path, nargs="?", metavar="RUN2", help="a second run, to compare with; as --versus"
    )
    parser.add_argument("--versus", type=Path, metavar="RUN2", help="a second run, to compare with")
    parser.add_argument(
        "--tasks", type=parsers.positive, help="number of tasks (default: that of the run's final test)"
    )
    parser.add_argument(
        "--seed", type=parsers.seed,
        help="random seed of tasks and environments (default: the run's eval.seed)",
    )  # fmt: skip
    cli.add_which(parser)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="evaluate on a grid over the task range, not on draws of the prior",
    )
    parser.add_argument(
        "--worst",
        type=parsers.positive,
        default=5,
        help="number of worst tasks to list (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, help="new .csv or .parquet file with one row per seed, task and episode"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE|-",
        help="new .json file with all printed numbers; - writes them to the output instead of the tables",
    )  # fmt: skip
    return parser


def _checked(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments; checks the paths of new files.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.other is not None and arguments.versus is not None:
        parser.error("a second run is given twice, as RUN2 and as --versus")
    arguments.versus = arguments.versus or arguments.other
    if arguments.out is not None:
        recorded.check_format(files.check_new(arguments.out, recorded.SUFFIXES))
    if arguments.json not in (None, _STDOUT):
        files.check_new(arguments.json, (".json",), "--json")
    return arguments


def _evaluate(run: Saved, other: Saved | None, arguments: argparse.Namespace) -> _Found:
    n = arguments.tasks or run.config.eval.test_tasks
    seed = run.config.eval.seed if arguments.seed is None else arguments.seed
    chosen: recorded.Chosen = "grid" if arguments.grid else "prior"
    records = recorded.collect(run, n, seed, chosen)
    against = []
    if other is not None:
        names = saved.short_names(run.folder, other.folder)
        theirs = recorded.collect(other, n, seed, chosen)
        against = versus.settings(records, theirs, names, arguments.worst)
    return _Found(records, verdict.settings(records, arguments.worst), against)


def _each(records: recorded.Records) -> str:
    """What there is of each task, in words."""
    if records.inner_steps:
        return f"returns after {', '.join(map(str, records.inner_steps))} inner steps"
    return f"{records.returns.shape[2]} episodes each"


def _show(console: Console, run: Saved, found: _Found) -> None:
    config, records = run.config, found.records
    kind = "on a grid over the task range" if records.chosen == "grid" else "from the prior"
    output.say(
        console,
        Text.assemble(
            (config.env, "bold"),
            f", {config.sampler} x {config.agent}: {len(records.tasks)} tasks {kind}, "
            f"{_each(records)}, learner ",
            (run.which, "bold"),
            "\n",
        ),
    )
    tables.show(console, found.settings)
    for one in found.against:
        versus.show(console, one)


def command(argv: Sequence[str]) -> None:
    """Evaluates a run's learners, prints tables and writes the files ``--out`` and ``--json``.

    Raises:
        ConfigError: for wrong input, before anything is computed; one line.
    """
    arguments = _checked(argv)
    run = saved.load(arguments.run, arguments.which)
    other = None
    if arguments.versus is not None:
        other = saved.load(arguments.versus, arguments.which)
        saved.check_comparable(run, other)
        plans = (verdict.places(one.config.plan) for one in (run, other))
        versus.matched(*plans, saved.short_names(run.folder, other.folder))
    compile_cache.prepare(cache=run.config.compile_cache)
    to_stdout = arguments.json == _STDOUT
    console = output.make(quiet=to_stdout)
    with console.status("evaluating ..."):
        found = _evaluate(run, other, arguments)
    _show(console, run, found)
    if arguments.out is not None:
        with files.new(arguments.out) as part:
            recorded.write(found.records, part, arguments.out.suffix)
        size = found.records.returns.size
        output.say(console, f"wrote {size:,} rows to {arguments.out}")
    if arguments.json is not None:
        text = as_json.text(run, found.records, found.settings, found.against)
        if to_stdout:
            sys.stdout.write(text)
            return
        with files.new(arguments.json) as part:
            part.write_text(text)
        output.say(console, f"wrote the numbers to {arguments.json}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
