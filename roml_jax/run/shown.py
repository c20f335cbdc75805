"""What the console shows of a run: returns per episode, and the tasks drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from roml_jax import experiment
from roml_jax.config import Config
from roml_jax.run import folder as run_folder
from roml_jax.run import plot, result, units
from roml_jax.samplers import drawn
from roml_jax.samplers.base import TaskSampler
from roml_jax.tasks import TaskFamily

Rows = list[dict[str, float]]
"""One mapping per seed, of values by metric name."""
_MOST = 3  # dimensions of the task that are named
_MOVED = 0.01  # a mean that moved by this share of the prior's spread is named
_TRAIN, _MEAN, _CVAR = "train/return_mean", "eval/return_mean", "eval/cvar"
_PHI = "sampler/phi_"


def diverged(row: Mapping[str, float]) -> bool:
    """Whether the seed of a row of training metrics has diverged."""
    return row.get("train/stopped", 0.0) > 0


class Tasks:
    """Text on the tasks that a sampler draws, by the names of their dimensions.

    Args:
        sampler: the sampler.
        family: its tasks.
    """

    def __init__(self, sampler: TaskSampler, family: TaskFamily) -> None:
        self._names = family.names
        self._drawing, self._prior = drawn.of(sampler, family), drawn.prior(family)
        self._spread: drawn.Spread | None = None  # the prior's, drawn once it is needed

    def text(self, phi: np.ndarray) -> str:
        """The dimensions whose mean left the prior's, such as ``mass 1.08 -> 1.42``; "" if none did.

        Args:
            phi: (S, p) parameters of the seeds.
        """
        if self._drawing is None or phi.shape[1:] != self._drawing.phi.shape or not len(phi):
            return ""
        if phi.shape[1:] == self._prior.phi.shape and (phi == self._prior.phi).all():
            return ""
        if self._spread is None:
            self._spread = self._prior.spread(self._prior.phi[None])
        before, now = self._spread.mean[0], self._drawing.mean(phi)
        wide = self._spread.high[0] - self._spread.low[0]
        share = np.abs(now - before) / np.where(wide > 0, wide, 1.0)
        moved = [i for i in np.argsort(-share) if share[i] > _MOVED]
        text = ", ".join(_moved(self._names[i], before[i], now[i], wide[i]) for i in moved[:_MOST])
        return f"{text} and {len(moved) - _MOST} more" if len(moved) > _MOST else text


def _moved(name: str, before: float, now: float, wide: float) -> str:
    """A mean before and now, with digits that suit the prior's spread."""
    digits = max(0, 2 - math.floor(math.log10(wide))) if wide > 0 else 2
    return f"{name} {before:.{digits}f} -> {now:.{digits}f}"


class Shown:
    """The last numbers of a run, and their history for the plot.

    Args:
        config: the run's configuration.
        tasks: how tasks are named.
        total: frames of a seed's whole run.
        before: rows of ``metrics.jsonl`` of a resumed run.
    """

    def __init__(
        self, config: Config, tasks: Tasks, total: int, before: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        swept = "alpha" in config.plan[0].settings
        self._cvar = "CVaR" if swept else f"CVaR {config.alpha:g}"
        self._tasks, self._total = tasks, total
        self._history: dict[str, dict[int, list[float]]] = {name: {} for name in (_TRAIN, _MEAN, _CVAR)}
        self.latest: Rows = []
        self.held_out: Rows = []
        for row in before:
            self._keep(row["frames"], [row])

    def _keep(self, frames: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for name, points in self._history.items():
            points.setdefault(frames, []).extend(float(row[name]) for row in rows if name in row)

    def trained(self, frames: int, rows: Rows) -> None:
        """Takes a chunk's metrics of each seed, after this many frames of a seed."""
        self.latest = rows
        self._keep(frames, rows)

    def evaluated(self, frames: int, rows: Rows) -> None:
        """Takes an evaluation's metrics of each seed."""
        self.held_out = rows
        self._keep(frames, [{f"eval/{name}": value for name, value in row.items()} for row in rows])

    def returns(self) -> str:
        """Mean returns per episode over the seeds: on training tasks, and on held-out tasks."""
        text = f"train {_number(result.mean(self.latest, _TRAIN))}"
        if self.held_out:
            mean, cvar = result.mean(self.held_out, "return_mean"), result.mean(self.held_out, "cvar")
            text += f"  held-out mean {_number(mean)}  {self._cvar} {_number(cvar)}"
        return text

    def facts(self) -> str:
        """Returns, the tasks drawn where their mean moved, and the number of seeds that diverged."""
        phis = [[v for name, v in row.items() if name.startswith(_PHI)] for row in self.latest]
        phi = np.array([one for one in phis if one and len(one) == len(phis[0])])
        stopped = sum(map(diverged, self.latest))
        parts = [self.returns(), self._tasks.text(phi) if phi.ndim == 2 else ""]
        parts += [f"{stopped} of {len(self.latest)} seeds diverged"] if stopped else []
        return "  ".join(part for part in parts if part)

    def plot(self, width: int) -> Text:
        """The history of the returns, means over the seeds, at most so many characters wide."""
        kinds = {_TRAIN: ("train", "bright_black"), _MEAN: ("mean", "cyan"), _CVAR: (self._cvar, "yellow")}
        lines = []
        for name, (label, style) in kinds.items():
            points = {x: values for x, values in self._history[name].items() if values}
            means = [float(np.mean(values)) for values in points.values()]
            lines.append(plot.Line(label, style, list(points), means))
        return plot.draw(lines, self._total, f"{self._total:,} frames", width)


def of(config: Config, parts: experiment.Experiment, folder: Path) -> Shown:
    """What the console shows of a run. With ``plot``, the history begins with the rows in its folder."""
    rows = run_folder.read_metrics(folder / run_folder.METRICS) if config.plot else []
    rows = units.from_file(rows, lambda: units.episodes(config, parts.env))
    tasks = Tasks(parts.sampler, parts.env.family)
    return Shown(config, tasks, parts.frames.after(parts.num_iterations), rows)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
