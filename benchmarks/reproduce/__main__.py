"""Reproduces the paper's experiments and makes all tables and figures of their results.

    python -m benchmarks.reproduce --env khazad_dum [--methods varibad roml cvar_ml] [--seeds 30]
        [--frames paper] [--group 5] [--minutes M]
    python -m benchmarks.reproduce --campaign
    python -m benchmarks.reproduce --tables

Trains every method on the same seeds in groups (one program each), tests the final learners on the same
held-out tasks (khazad_dum 3,000, others 1,000), and writes a compact result of each group to
benchmarks/results/reproduce. The command can be stopped at any time, and stops by itself after --minutes. If
it is started again, it continues; the folder of runs with their checkpoints (--work) may be moved to another
machine before. Seeds that have a result are left out, whatever the size of their group; a group without one
is continued with the same --group.

Several processes of the same command may run at once, one per core; each takes groups that no other process
works on. --campaign runs the experiments of protocol.CAMPAIGN (RoML on robots), in order of priority.

A method's name can be followed by variants, e.g. roml+reset+credit. RoML on agents other than VariBAD is
roml_rl2 and so on. --tables does not train: it makes tables and figures from the results and replaces those
of docs/results.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.reproduce import campaign, protocol, tables
from roml_jax import envs
from roml_jax.errors import ConfigError, unknown
from roml_jax.run import cli
from roml_jax.run.parser import Parser, positive

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.reproduce", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--env", default="khazad_dum", help="environment (default: %(default)s)")
    parser.add_argument(
        "--methods", nargs="+", default=list(protocol.PAPER), metavar="METHOD",
        help=f"of {', '.join(protocol.METHODS)}, each with optional variants: {', '.join(protocol.VARIANTS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive, default=30, help="seeds per method (default: %(default)s)")
    parser.add_argument("--frames", default="paper", help="frames per seed (default: the paper's number)")
    parser.add_argument(
        "--group", type=positive, default=protocol.GROUP,
        help="seeds per program and checkpoint (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--campaign", action="store_true",
        help="run the campaign (RoML on robots); ignores --env, --methods, --seeds, --frames and --group",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, help="time limit in minutes (default: none)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/reproduce"),
        help="folder of the runs and their checkpoints (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, default=_ROOT / "benchmarks" / "results" / "reproduce",
        help="folder of the compact results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tables", action="store_true", help="do not train; make tables and figures from the results"
    )
    return parser


def _show(results: Path, console: Console) -> None:
    """Prints the tables of all results and replaces tables and figures in docs/."""
    page, images = _ROOT / "docs" / "results.md", _ROOT / "docs" / "images"
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        methods = tables.load(folder)
        if not methods:
            continue
        env = folder.name.split("-")[0]
        text = tables.tables(env, methods)
        console.rule(folder.name)
        console.print(Markdown(text))
        if tables.fill(page, folder.name, text):
            tables.draw(folder.name, methods, images)
        else:
            console.print(
                f"{page} has no mark <!-- begin {folder.name} -->: its tables are only printed",
                soft_wrap=True,
            )


def command(argv: Sequence[str]) -> None:
    """Trains, or makes tables and figures.

    Raises:
        ConfigError: for wrong input; one line.
    """
    args = _parser().parse_args(argv)
    console = Console()
    if args.env not in envs.names():
        raise unknown("environment", args.env, envs.names())
    for name in args.methods:
        protocol.method(name)
    if args.frames != "paper":
        try:
            float(args.frames)
        except ValueError:
            raise ConfigError(f"--frames must be paper or a number, got {args.frames!r}") from None
    if args.tables:
        if not args.results.is_dir():
            raise ConfigError(f"{args.results} has no results yet")
        _show(args.results, console)
        return
    groups = protocol.groups(args.env, args.methods, args.seeds, args.frames, args.group)
    if args.campaign:
        groups = protocol.campaign()
    done = campaign.run(groups, args.work, args.results, args.minutes, console)
    console.print("all groups are done" if done else "time limit reached; run the same command to continue")


if __name__ == "__main__":
    sys.exit(cli.run(command))
