"""Output of the commands: 80 columns if it is not a terminal, and nothing is cut."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

WIDTH = 80  # columns if the output is not a terminal
_UNBOUNDED = 10_000


def make(quiet: bool = False, highlight: bool = False) -> Console:
    """A console as wide as the terminal, or 80 columns if the output is not a terminal.

    Args:
        quiet: print nothing.
        highlight: colour numbers and paths on a terminal.
    """
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=highlight, quiet=quiet)


def say(console: Console, line: str, style: str | None = None, highlight: bool | None = None) -> None:
    """Prints a line that is wrapped between words; a word, such as a path, is never cut."""
    console.print(line, style=style, overflow="ignore", crop=False, highlight=highlight)


def show_table(console: Console, table: Table) -> None:
    """Prints a table. If it is too wide, words of its heads get lines of their own, then cells wrap, too."""
    whole = console.options.update(max_width=_UNBOUNDED)
    if console.measure(table, options=whole).maximum > console.width:
        for column in table.columns:
            column.header = str(column.header).replace(" ", "\n")
        if console.measure(table, options=whole).maximum > console.width:
            for column in table.columns:
                column.no_wrap, column.overflow = False, "fold"
    console.print(table)
