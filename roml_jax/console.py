"""Output of the commands: 80 columns if it is not a terminal, and nothing is cut."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 80  # columns if the output is not a terminal
_UNBOUNDED = 10_000


def make(quiet: bool = False, highlight: bool = False) -> Console:
    """A console as wide as the terminal, or 80 columns if the output is not a terminal.

    Args:
        quiet: print nothing.
        highlight: colour numbers and paths on a terminal.
    """
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=highlight, quiet=quiet)


def say(console: Console, line: str | Text, style: str | None = None, highlight: bool | None = None) -> None:
    """Prints a line that is wrapped between words; a word, such as a path, is never cut.

    Brackets and colons of a string are printed as they are: they may be a path's.
    """
    if isinstance(line, str):
        line = console.render_str(line, markup=False, emoji=False, highlight=highlight)
    for text in line.split(allow_blank=True):
        breaks, start = [], 0
        for word in re.finditer(r"\S+", text.plain):
            if word.end() - start > console.width and word.start() > start:
                start = word.start()
                breaks.append(start)
        for part in text.divide(breaks):
            part.rstrip()
            console.print(part, style=style, soft_wrap=True, highlight=False)


def show_table(console: Console, table: Table) -> None:
    """Prints a table. If it is too wide, the words of its heads get lines of their own.

    If that is not enough, it is printed in several parts, each with the first column. Columns that may wrap
    count with their longest word.
    """
    fits = _width(console, table) <= console.width
    for part in [table] if fits else _parts(console, _heads(table, " ", "\n")):
        short = _heads(part, "\n", " ")  # with fewer columns, the heads may fit into a line
        console.print(short if _width(console, short) <= console.width else part)


def _heads(table: Table, old: str, new: str) -> Table:
    """The table with one string in its heads replaced."""
    changed = copy.copy(table)
    changed.columns = [
        dataclasses.replace(column, header=str(column.header).replace(old, new)) for column in table.columns
    ]
    return changed


def _width(console: Console, table: Table) -> int:
    """The least width at which nothing of a table is cut."""
    narrow, options = copy.copy(table), console.options.update(max_width=_UNBOUNDED)
    narrow.columns = [copy.copy(column) for column in table.columns]
    for column in narrow.columns:
        if not column.no_wrap:
            parts = [column.header, *column.cells]
            column.max_width = max(console.measure(part, options=options).minimum for part in parts)
    return console.measure(narrow, options=options).maximum


def _parts(console: Console, table: Table) -> Iterator[Table]:
    """The table in parts of as many columns as fit, at least two."""
    first, *rest = table.columns
    part = copy.copy(table)
    part.columns = [first]
    for column in rest:
        wider = copy.copy(part)
        wider.columns = [*part.columns, column]
        if len(part.columns) > 1 and _width(console, wider) > console.width:
            yield part
            wider.columns, wider.title = [first, column], None
        part = wider
    yield part
