"""Averages of a chunk's metrics, and the console's progress display."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 10.0  # between lines if the output is not a terminal


def duration(seconds: float) -> str:
    """Seconds as text: ``42s``, ``3m05s`` or ``2h07m``; ``?`` if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def mean_over_rows(rows: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    """Averages a chunk's metrics (rows, R) over rows, NaN left out; returns one mapping per seed.

    A metric without any value is left out of a seed's mapping. Parameters of the sampler, its number of
    updates and ``train/stopped`` are states: their last value is taken instead of the average.
    """
    num_seeds = next(iter(rows.values())).shape[1]
    runs: list[dict[str, float]] = [{} for _ in range(num_seeds)]
    for name, values in rows.items():
        for run in range(num_seeds):
            present = values[:, run][~np.isnan(values[:, run])]
            if present.size:
                # these are states: take the last value, not the average
                last = name.startswith("sampler/phi") or name in ("sampler/updates", "train/stopped")
                runs[run][name] = float(present[-1] if last else present.mean())
    return runs


class ConsoleProgress:
    """A progress bar on a terminal; otherwise a line every ten seconds.

    Args:
        console: where to print.
        total_frames: frames of the whole run, over all seeds.
        done: frames done before a resumed run starts.
    """

    def __init__(self, console: Console, total_frames: int, done: int = 0) -> None:
        self._console, self._total, self._before = console, total_frames, done
        self._done, self._start, self._said = done, time.monotonic(), -math.inf
        self._bar = Progress(
            TextColumn("{task.percentage:>3.0f}%"), BarColumn(bar_width=24), TextColumn("{task.description}"),
            TimeElapsedColumn(), console=console, transient=False,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total_frames)

    def __enter__(self) -> ConsoleProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def advance(self, frames: int, facts: str) -> None:
        """Adds frames to the progress. ``facts`` is further text to show."""
        self._done += frames
        elapsed = time.monotonic() - self._start
        rate = (self._done - self._before) / elapsed if elapsed else 0.0
        left = duration((self._total - self._done) / rate) if rate else "?"
        text = f"{self._done:,}/{self._total:,} frames  {rate:,.0f}/s  {left} left  {facts}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done, description=text)
        elif time.monotonic() - self._said > _PLAIN_SECONDS or self._done >= self._total:
            self._said = time.monotonic()
            self._console.print(text, soft_wrap=True, highlight=False)
