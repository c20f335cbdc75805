"""Output that is not a terminal's has 80 columns; nothing in it is cut."""

import io
import sys

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from roml_jax import console


def shown(show, width=80):
    stream = io.StringIO()
    show(Console(file=stream, width=width))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert "…" not in stream.getvalue()
    return lines


def table(columns, head, cell):
    made = Table(title="of numbers", box=box.SIMPLE_HEAD)
    for i in range(columns):
        made.add_column(f"{head} {i}", no_wrap=True)
    made.add_row(*[cell] * columns)
    return made


def test_a_pipe_has_80_columns(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.make().width == 80


def test_brackets_and_colons_of_a_path_are_printed():
    assert shown(lambda to: console.say(to, "saved in runs/x[a]/[/b]:dog:")) == [
        "saved in runs/x[a]/[/b]:dog:"
    ]


def test_lines_are_wrapped_between_words_and_paths_stay_whole():
    path = "/a/" + "long" * 30 + "/path"
    lines = shown(
        lambda to: console.say(to, f"saved after fifteen iterations of two seeds in {path} {'word ' * 20}")
    )
    assert lines[0] == "saved after fifteen iterations of two seeds in"
    assert lines[1] == path
    assert max(map(len, lines[2:])) <= 80


@pytest.mark.parametrize(
    ("columns", "head", "cell", "parts"),
    [
        (4, "return", "1.25", 1),
        (8, "worst task of", "-12.50", 1),
        (6, "mean", "-12.5 [-13.0, -11.9]", 3),
        (12, "a", "-1.5 [2, 3]", 3),
    ],
)
def test_a_table_fits_and_is_whole(columns, head, cell, parts):
    """A wide one is divided between columns, and its first column is in every part."""
    lines = shown(lambda to: console.show_table(to, table(columns, head, cell)))
    assert max(map(len, lines)) <= 80
    assert sum(line.count(cell) for line in lines) == columns + parts - 1
    assert sum("of numbers" in line for line in lines) == 1
    for i in range(columns):
        assert any(str(i) in line.split() for line in lines)


def test_a_part_with_room_has_its_heads_in_one_line():
    wide = Table()
    for head in ("alpha", "CVaR with its interval", "VaR with its interval", "tasks in the tail"):
        wide.add_column(head, no_wrap=True)
    wide.add_row("0.01 (the run's)", "-0.377 [-0.411, -0.344]", "-0.320 [-0.329, -0.310]", "10 of 1000")
    lines = shown(lambda to: console.show_table(to, wide))
    assert any("tasks in the tail" in line for line in lines)
    assert max(map(len, lines)) <= 80
