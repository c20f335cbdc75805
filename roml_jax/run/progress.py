"""Averages of a chunk's metrics, training time, and the console's progress display."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from roml_jax import console as output

_PLAIN_SECONDS = 10.0  # between lines if the output is not a terminal
_REFRESH = 2.0  # seconds between two texts on a terminal
_BAR, _PLOT_WIDTH = 24, 100  # characters


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


def can_plot(console: Console) -> bool:
    """Whether the console is a terminal that shows braille characters."""
    return console.is_terminal and not console.options.ascii_only


class Clock:
    """A run's training time: evaluations count, and waiting for a compiler does not.

    Args:
        seconds: training time before.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._began, self._stopped = time.monotonic() - seconds, math.inf

    def seconds(self) -> float:
        """Training time, in seconds."""
        return min(time.monotonic(), self._stopped) - self._began

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Context in which no training time passes."""
        self._stopped = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - self._stopped
            self._stopped = math.inf


class ConsoleProgress:
    """The state of a run on the console: on a terminal a display that is renewed, else lines.

    A line is printed when a quarter of the run is done and evaluated. If the output is not a terminal, there
    is one every ten seconds, too.

    Args:
        console: where to print.
        total: frames of a seed's whole run, as ``--frames`` counts.
        num_seeds: number of seeds.
        done: frames of a seed that are done before a resumed run starts.
        plot: (width) -> a plot to show below the display; None for no plot.
        clock: of the training time, for the speed and the time left; None for one that starts now.
    """

    def __init__(
        self, console: Console, total: int, num_seeds: int = 1, done: int = 0,
        plot: Callable[[int], Text] | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._clock = clock or Clock()
        self._trained = self._clock.seconds()
        self._console, self._total, self._before, self._num_seeds = console, total, done, num_seeds
        self._done, self._start, self._said, self._quarter = (
            done,
            time.monotonic(),
            -math.inf,
            4 * done // total,
        )
        self._facts, self._plot, self._drawn = "", plot, Text()
        self._live = Live(
            get_renderable=self._display, console=console, refresh_per_second=4, vertical_overflow="crop"
        )

    def __enter__(self) -> ConsoleProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _state(self) -> str:
        """Frames of a seed, time and speed as text."""
        elapsed, trained = time.monotonic() - self._start, self._clock.seconds() - self._trained
        rate = (self._done - self._before) / trained if trained > 0 else 0.0
        left = duration((self._total - self._done) / rate) if rate else "?"
        unit = "frames per seed" if self._num_seeds > 1 else "frames"
        return (
            f"{self._done:,}/{self._total:,} {unit}, {rate:,.0f}/s  {duration(elapsed)} elapsed, {left} left"
        )

    def _percent(self) -> str:
        return f"{100 * self._done // self._total:3d}%"

    def _display(self) -> Group:
        """The display on a terminal: a bar, the facts and the plot."""
        state = self._state()
        width = min(max(self._console.width - len(state) - 6, 4), _BAR)
        filled = width * self._done // self._total
        bar = Text.assemble((filled * "━", "green"), ((width - filled) * "━", "bright_black"))
        lines = [Text.assemble(f"{self._percent()} ", bar, f" {state}"), Text(self._facts)]
        return Group(*lines, *([self._drawn] if self._plot is not None else []))

    def advance(self, frames: int, facts: Callable[[], str], evaluated: bool = False) -> None:
        """Adds frames of a seed to the progress.

        Args:
            frames: frames of a seed since the last call.
            facts: () -> further text to show; called only if something is shown.
            evaluated: whether the facts hold a new evaluation.
        """
        self._done += frames
        now, terminal = time.monotonic(), self._console.is_terminal
        quarter = evaluated and 4 * self._done // self._total > self._quarter
        due = now - self._said > (_REFRESH if terminal else _PLAIN_SECONDS)
        if self._console.quiet or not (quarter or due or self._done >= self._total):
            return
        self._said, self._facts = now, facts()
        if quarter:
            self._quarter = 4 * self._done // self._total
        if terminal and self._plot is not None:
            self._drawn = self._plot(min(self._console.width, _PLOT_WIDTH))
        if quarter or not terminal:
            output.say(self._console, f"{self._percent()}  {self._state()}  {self._facts}", highlight=False)
