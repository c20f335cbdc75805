"""The command line: ``python -m roml_jax.report RUN... --out report.html``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from roml_jax.errors import ConfigError
from roml_jax.report import data, page
from roml_jax.report.sections import sections
from roml_jax.run import cli, compile_cache, files

_TASKS = 256


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m roml_jax.report",
        description="Compares any number of runs on one page that needs no network, with its figures as PNGs "
        "in a folder beside it. Runs are grouped by environment and method; seeds of one method are pooled.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the new page (default: %(default)s)"
    )
    parser.add_argument(
        "--tasks", type=_number, default=_TASKS,
        help="held-out tasks for returns against the task, on which every learner acts now; 0 for none "
        "(default: %(default)s)",
    )  # fmt: skip
    return parser


def command(argv: Sequence[str]) -> None:
    """Reads runs and writes the page and its figures.

    Raises:
        ConfigError: for wrong input, before anything is computed; one line.
    """
    given = _parser().parse_args(argv)
    files.check_new(given.out, (".html",))
    images = given.out.with_suffix("")
    if images.exists():
        raise ConfigError(f"{images}, the folder for the figures, exists; nothing is overwritten")
    groups = data.load(given.runs)
    compile_cache.enable()
    console = cli.console()
    made = []
    for group in groups:
        with console.status(f"{group.env} ..."):
            made.append((group, sections(group, given.tasks)))
    count = sum(len(method.seeds) for group in groups for method in group.methods)
    title = f"roml_jax: {count} run{'s' if count > 1 else ''}"
    with files.new(given.out) as part:
        part.write_text(page.page(title, made))
    drawn = 0
    for i, (group, parts) in enumerate(made):
        prefix = f"{group.env.split(',')[0]}-{i}-" if len(made) > 1 else ""
        for section in parts:
            if section.figure is not None:
                with files.new(images / f"{prefix}{section.name}.png") as part:
                    part.write_bytes(page.png(section.figure))
                drawn += 1
    size = given.out.stat().st_size / 1e6
    console.print(f"{given.out} ({size:.1f} MB), and {drawn} figures in {images}", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
