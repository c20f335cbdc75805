"""The paper's experiments again, and every table and figure that this project shows of them.

    python -m benchmarks.reproduce --env khazad_dum [--methods varibad roml cvar_ml] [--seeds 30]
        [--frames paper] [--group 5] [--minutes M]
    python -m benchmarks.reproduce --campaign
    python -m benchmarks.reproduce --tables

Trains every method on the same seeds in groups (one program each), tests the final learners on the same
held-out tasks (khazad_dum 3,000, others 1,000), and keeps a compact result of each group under
benchmarks/results/reproduce. It can be stopped at any time, or stops by itself after --minutes, and goes
on where it was; the runs with their checkpoints (--work) may be taken to another machine for that.

The command may run several times at once, one process a core: each takes groups that no other works on.
--campaign runs everything that docs/results.md needs of robots, in order of priority.

A method's name can be followed by variants: roml+reset+credit. RoML on another agent than VariBAD is
roml_rl2 and so on. With --tables nothing is trained: tables and
figures are made from the results alone, and those of docs/results.md are replaced.
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

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m benchmarks.reproduce", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--env", default="khazad_dum", help="environment (default: %(default)s)")
    parser.add_argument(
        "--methods", nargs="+", default=list(protocol.PAPER), metavar="METHOD",
        help=f"of {', '.join(protocol.METHODS)}, each with variants: {', '.join(protocol.VARIANTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=cli.positive, default=30, help="of each method (default: %(default)s)"
    )
    parser.add_argument("--frames", default="paper", help="of each seed (default: the paper's)")
    parser.add_argument(
        "--group", type=cli.positive, default=protocol.GROUP,
        help="seeds per program; a group's checkpoint has all of them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--campaign", action="store_true", help="everything of robots, whatever --env, --methods, ... say"
    )
    parser.add_argument("--minutes", type=float, help="stop after so long (default: when all is done)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/reproduce"),
        help="folder of the runs and their checkpoints (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, default=_ROOT / "benchmarks" / "results" / "reproduce",
        help="folder of the compact results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--tables", action="store_true", help="only make the tables and figures")
    return parser


def _show(results: Path, console: Console) -> None:
    """Tables and figures of everything that there is, on the console and in docs/."""
    page, images = _ROOT / "docs" / "results.md", _ROOT / "docs" / "images"
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        found = tables.load(folder)
        if not found:
            continue
        env = folder.name.split("-")[0]
        text = tables.tables(env, found)
        console.rule(folder.name)
        console.print(Markdown(text))
        if tables.fill(page, folder.name, text):
            tables.draw(folder.name, found, images)
        else:
            console.print(f"{page} has no place for {folder.name}", soft_wrap=True)


def command(argv: Sequence[str]) -> None:
    """Trains, or makes tables and figures.

    Raises:
        ConfigError: for wrong input; one line.
    """
    given = _parser().parse_args(argv)
    console = Console()
    if given.env not in envs.names():
        raise unknown("environment", given.env, envs.names())
    for name in given.methods:
        protocol.method(name)
    if given.frames != "paper":
        try:
            float(given.frames)
        except ValueError:
            raise ConfigError(f"--frames must be paper or a number, got {given.frames!r}") from None
    if given.tables:
        if not given.results.is_dir():
            raise ConfigError(f"{given.results} has no results yet")
        _show(given.results, console)
        return
    groups = protocol.groups(given.env, given.methods, given.seeds, given.frames, given.group)
    if given.campaign:
        groups = protocol.campaign()
    done = campaign.run(groups, given.work, given.results, given.minutes, console)
    console.print("all is done" if done else "time is over; the same command goes on")


if __name__ == "__main__":
    sys.exit(cli.run(command))
