"""Compares all task samplers: equal frames, the same held-out tasks, the same seeds.

    python -m benchmarks.samplers [--beds khazad_dum ...] [--samplers cem plr ...]
    python -m benchmarks.samplers --beds khazad_dum_ideas hopper_multitask_ideas
    python -m benchmarks.samplers --tables

Trains every sampler on every test bed, a bed after the other, the seeds of a sampler in one program or two,
and writes a compact result of each to benchmarks/results/samplers. What has a result is skipped. Several
processes of this command may run at once, one per core: each takes what no other process works on.
The frames of scoring passes count. The thresholds of doraemon and autodr come from the test returns of
uniform, which therefore runs first. The beds that end in _ideas compare variants of RoML with it.

--tables does not train: it makes the tables and figures of docs/samplers.md from the results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.reproduce import campaign
from benchmarks.reproduce.tables import fill
from benchmarks.samplers import figures, protocol, tables, training
from roml_jax.errors import unknown
from roml_jax.run import cli
from roml_jax.run.parser import Parser

_ROOT = Path(__file__).parent.parent.parent
RESULTS = _ROOT / "benchmarks" / "results" / "samplers"
_WAIT = 30.0  # seconds between two looks for the result of uniform that another process works on


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.samplers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--beds", nargs="+", metavar="BED",
        help=f"of {', '.join(protocol.ALL_BEDS)} (default: those not named _ideas; with --tables, all)",
    )  # fmt: skip
    parser.add_argument(
        "--samplers", nargs="+", metavar="SAMPLER",
        help=f"of {', '.join(protocol.OPTIONS)}; on beds named _ideas of {', '.join(protocol.IDEAS)} "
        "(default: all of the bed's)",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the compact results (default: %(default)s)"
    )
    parser.add_argument(
        "--tables", action="store_true", help="do not train; make tables and figures from the results"
    )
    return parser


def _limits(results: Path, name: str) -> tuple[float, float]:
    """Thresholds from ``uniform`` on a bed, once its result is there: another process may work on it."""
    while (result := training.read(results, name, "uniform")) is None:
        time.sleep(_WAIT)
    return protocol.thresholds(protocol.ALL_BEDS[name], result.returns, result.about["episodes"])


def _train(results: Path, name: str, sampler: str, seeds: range, console: Console) -> None:
    """Trains seeds of a sampler on a bed, unless they have a result or another process works on them."""
    file = training.path(results, name, sampler, seeds)
    with campaign.claimed(file) as is_claimed:
        if not is_claimed or file.is_file():
            return
        bed = protocol.ALL_BEDS[name]
        limits = _limits(results, name) if sampler in protocol.WITH_THRESHOLDS else None
        console.rule(f"{bed.title}: {sampler}, seeds {seeds[0]} to {seeds[-1]}")
        result = training.attempt(
            bed, sampler, limits, seeds, lambda line: console.print(line, soft_wrap=True)
        )
        training.write(file, result)


def _show(results: Path, beds: Sequence[str], console: Console) -> None:
    """Prints all tables, fills them into docs/samplers.md and draws the figures."""
    found, refused = {}, {}
    for bed in beds:
        compared = protocol.ALL_BEDS[bed].samplers
        each = {name: training.read(results, bed, name) for name in compared}
        each = {name: result for name, result in each.items() if result is not None}
        if each:
            found[bed] = each
            reasons = {name: training.refusal(results, bed, name) for name in compared}
            refused[bed] = {name: reason for name, reason in reasons.items() if reason is not None}
    chosen = {bed: protocol.ALL_BEDS[bed] for bed in found}
    page = _ROOT / "docs" / "samplers.md"
    for name, text in tables.all_tables(chosen, found, refused):
        console.rule(name)
        console.print(Markdown(text))
        if not fill(page, f"samplers {name}", text):
            console.print(f"{page} has no mark <!-- begin samplers {name} -->: this table is only printed")
    for path in figures.draw(chosen, found, _ROOT / "docs" / "images"):
        console.print(f"wrote {path}", soft_wrap=True)


def command(argv: Sequence[str]) -> None:
    """Trains what has no result, or makes tables and figures.

    Raises:
        ConfigError: for wrong input; one line.
    """
    args = _parser().parse_args(argv)
    beds = args.beds or list(protocol.ALL_BEDS if args.tables else protocol.BEDS)
    for name in beds:
        if name not in protocol.ALL_BEDS:
            raise unknown("test bed", name, protocol.ALL_BEDS)
        for sampler in args.samplers or ():
            if sampler not in protocol.ALL_BEDS[name].samplers:
                raise unknown(f"sampler on {name}", sampler, protocol.ALL_BEDS[name].samplers)
    console = Console()
    if args.tables:
        _show(args.results, beds, console)
        return
    for name in beds:
        samplers = args.samplers or list(protocol.ALL_BEDS[name].samplers)
        needs_uniform = any(sampler in protocol.WITH_THRESHOLDS for sampler in samplers)
        first = ["uniform"] if needs_uniform and "uniform" not in samplers else []
        for sampler in [*first, *samplers]:
            for seeds in protocol.ALL_BEDS[name].groups:
                _train(args.results, name, sampler, seeds, console)


if __name__ == "__main__":
    sys.exit(cli.run(command))
