"""Command line ``python -m roml_jax.report RUN... --out report.html``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from roml_jax import console as output
from roml_jax.errors import ConfigError
from roml_jax.report import data, page
from roml_jax.report.sections import sections
from roml_jax.run import cli, compile_cache, files
from roml_jax.run import parser as parsers

_TASKS = 256


def _parser() -> parsers.Parser:
    parser = parsers.Parser(
        prog="python -m roml_jax.report",
        description="Compares runs on one HTML page, which loads nothing from the network. The figures are "
        "also written as PNG files to a folder beside the page. Runs are grouped by environment and method; "
        "the seeds of one method are pooled.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="path of the new page (default: %(default)s)"
    )
    parser.add_argument(
        "--tasks", type=functools.partial(parsers.at_least, 0), default=_TASKS,
        help="number of held-out tasks on which every learner is tested for the figure of return against "
        "the task and the sections after it; 0 leaves them out (default: %(default)s)",
    )  # fmt: skip
    return parser


def command(argv: Sequence[str]) -> None:
    """Reads runs and writes the page and its figures.

    Raises:
        ConfigError: for wrong input, before anything is computed; one line.
    """
    arguments = _parser().parse_args(argv)
    files.check_new(arguments.out, (".html",))
    images = arguments.out.with_suffix("")
    if images.exists():
        raise ConfigError(f"the folder for the figures, {images}, exists; nothing is overwritten")
    groups = data.load(arguments.runs)
    compile_cache.prepare(cache=True)
    console = output.make()
    contents = []
    for group in groups:
        with console.status(escape(f"{group.env} ...")):
            contents.append((group, sections(group, arguments.tasks)))
    count = sum(len(method.seeds) for group in groups for method in group.methods)
    title = f"roml_jax: {count} seed{'s' if count > 1 else ''}"
    with files.new(arguments.out) as part:
        part.write_text(page.page(title, contents))
    drawn = 0
    for i, (group, parts) in enumerate(contents):
        prefix = f"{group.env.split(',')[0]}-{i}-" if len(contents) > 1 else ""
        for section in parts:
            if section.figure is not None:
                with files.new(images / f"{prefix}{section.name}.png") as part:
                    part.write_bytes(page.png(section.figure))
                drawn += 1
    size = arguments.out.stat().st_size / 1e6
    output.say(console, f"wrote {arguments.out} ({size:.1f} MB) and {drawn} figures in {images}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
