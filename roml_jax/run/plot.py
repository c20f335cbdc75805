"""Lines in the terminal: a small plot of braille characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.text import Text

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a character
_BRAILLE = 0x2800


class Line(NamedTuple):
    """A line: its label and colour, and its points x (n,), y (n,)."""

    label: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


def _pixels(line: Line, x_end: float, low: float, high: float, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels (rows, columns) a line covers; rows count from the top."""
    rows, columns = shape
    finite = np.isfinite(line.y)
    x, y = np.asarray(line.x, float)[finite], np.asarray(line.y, float)[finite]
    covered = np.zeros(shape, bool)
    if not x.size:
        return covered
    at = np.round(x / x_end * (columns - 1)).astype(int)
    every = np.arange(at[0], at[-1] + 1)
    heights = (high - np.interp(every / (columns - 1) * x_end, x, y)) / (high - low) * (rows - 1)
    row = np.clip(np.round(heights), 0, rows - 1).astype(int)
    before = np.concatenate([row[:1], row[:-1]])
    for column, a, b in zip(every, before, row, strict=True):
        first = a + np.sign(b - a)  # joined to the column before
        covered[min(first, b) : max(first, b) + 1, column] = True
    return covered


def _label_rows(wanted: Sequence[int], rows: int) -> list[int]:
    """A row of its own for each label, near the wanted one."""
    order = np.argsort(wanted, kind="stable")
    placed = np.zeros(len(wanted), int)
    free = -1
    for left, i in zip(range(len(order), 0, -1), order, strict=True):
        free = min(max(wanted[i], free + 1), rows - left)
        placed[i] = free
    return placed.tolist()


def draw(lines: Sequence[Line], x_end: float, x_label: str, width: int, height: int = 10) -> Text:
    """Draws lines over x from 0 to ``x_end``, each with its label at the right.

    Args:
        lines: at most ``height`` of them; a later one is drawn over an earlier one.
        x_end: end of the x-axis.
        x_label: text at the right end of the x-axis.
        width: in characters.
        height: in characters, without the x-axis.
    """
    values = [y for line in lines for y in line.y if np.isfinite(y)]
    if not values:
        return Text("the plot begins with the first returns", style="dim")
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    ends = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, ends))
    columns = max(width - margin - 3 - max(len(line.label) for line in lines), 8)
    bits, styles = np.zeros((height, columns), int), np.full((height, columns), "", object)
    wanted = []
    for line in lines:
        covered = _pixels(line, x_end, low, high, (4 * height, 2 * columns))
        cells = (covered.reshape(height, 4, columns, 2) * _DOTS[None, :, None]).sum(axis=(1, 3))
        bits |= cells
        styles[cells > 0] = line.style
        last = np.flatnonzero(covered.any(axis=0))
        wanted.append(int(np.flatnonzero(covered[:, last[-1]]).mean()) // 4 if last.size else 0)
    labels = dict(zip(_label_rows(wanted, height), lines, strict=True))
    text = Text(no_wrap=True, overflow="crop")
    for row in range(height):
        text.append({0: ends[0], height - 1: ends[1]}.get(row, "").rjust(margin) + " ┤", style="dim")
        for cell, style in zip(bits[row], styles[row], strict=True):
            text.append(chr(_BRAILLE + cell) if cell else " ", style=style or None)
        if row in labels:
            text.append(f" {labels[row].label}", style=labels[row].style)
        text.append("\n")
    text.append(f"{'0'.rjust(margin + 2)}{x_label.rjust(columns)}", style="dim")
    return text
