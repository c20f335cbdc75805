"""The comparison's figures: gains in CVaR and mean on all beds, and the tasks drawn over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.samplers import protocol, summary
from benchmarks.samplers.training import QUANTILES, Result
from roml_jax.evaluate.intervals import Interval
from roml_jax.report import style

_CVAR, _MEAN = "#0072b2", "#d55e00"
_FROM_PRIOR = ("uniform", "tail", "tail_soft", "gdrm")  # samplers whose tasks never leave the prior
_DPI = 110


def _mark(axis: Axes, row: float, gain: Interval, colour: str) -> None:
    axis.plot([gain.low, gain.high], [row, row], color=colour, lw=2.2, solid_capstyle="butt")
    axis.plot(gain.mean, row, "o", color=colour, ms=5)


def gains(beds: Mapping[str, protocol.Bed], results: Mapping[str, Mapping[str, Result]]) -> Figure:
    """Differences from ``uniform`` in CVaR and in the mean: a panel per bed, a row per sampler."""
    order = summary.ranks(results, "cvar")
    names = [name for name in protocol.OPTIONS if any(name in one for one in results.values())]
    names = [name for name in names if name != "uniform"]
    names.sort(key=lambda name: order[name].mean if name in order else np.inf)
    figure, axes = style.panels(len(results), columns=3, size=(3.4, 0.7 + 0.3 * len(names)))
    for place, (axis, (bed, one)) in enumerate(zip(axes, results.items(), strict=True)):
        rows = {row.sampler: row for row in summary.rows(one, beds[bed].baselines)}
        for i, name in enumerate(names):
            if name in rows and "uniform" in rows[name].cvar_gain:
                _mark(axis, i - 0.15, rows[name].cvar_gain["uniform"], _CVAR)
                _mark(axis, i + 0.17, rows[name].mean_gain["uniform"], _MEAN)
        axis.axvline(0.0, color=style.FAINT, lw=1)
        axis.set(yticks=range(len(names)), yticklabels=names if place % 3 == 0 else [])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="y", lw=0)
        axis.grid(axis="x", color="#e6e6e6", lw=0.6)
        axis.tick_params(axis="y", length=0)
        style.name_axes(axis, beds[bed].title, f"{beds[bed].unit}, minus uniform", "")
    alphas = sorted({one["uniform"].about["alpha"] for one in results.values() if "uniform" in one})
    handles = [axes[0].plot([], [], "o-", color=colour)[0] for colour in (_CVAR, _MEAN)]
    labels = [f"CVaR {' or '.join(f'{alpha:g}' for alpha in alphas)}", "mean"]
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def tasks_over_time(bed: protocol.Bed, results: Mapping[str, Result]) -> Figure | None:
    """The tasks that each sampler draws against frames: median and middle 80 %, mean over seeds.

    Samplers that always draw from the prior are left out; the prior is the grey band.
    """
    moving = {name: result for name, result in results.items() if name not in _FROM_PRIOR}
    if not moving:
        return None
    first = next(iter(results.values()))
    dims = first.names
    columns = len(dims) if len(dims) > 1 else 4
    figure, axes = style.panels(len(moving) * len(dims), columns=columns, size=(2.5, 1.75))
    prior = np.quantile(first.tasks, QUANTILES, axis=0)  # (3, d)
    for i, (name, result) in enumerate(moving.items()):
        x, bands = result.frames / 1e6, result.drawn.mean(axis=0)  # (T,), (T, 3, d)
        for j, dim in enumerate(dims):
            axis = axes[i * len(dims) + j]
            low, middle, high = bands[:, :, j].T
            axis.axhspan(prior[0, j], prior[2, j], color=style.FAINT, alpha=0.15, lw=0)
            axis.axhline(prior[1, j], color=style.FAINT, lw=1, ls="--")
            axis.fill_between(x, low, high, color=_CVAR, alpha=0.2, lw=0)
            axis.plot(x, middle, color=_CVAR, lw=1.6)
            axis.set_xlim(0, x[-1])
            style.name_axes(axis, name, "million frames", dim)
    return figure


def draw(
    beds: Mapping[str, protocol.Bed], results: Mapping[str, Mapping[str, Result]], images: Path
) -> list[Path]:
    """Draws all figures as PNGs; returns their paths."""
    images.mkdir(parents=True, exist_ok=True)
    rivals = summary.rivals(results)
    made: dict[str, Figure | None] = {"samplers_gains": gains(beds, rivals)} if rivals else {}
    for bed, one in results.items():
        made[f"samplers_tasks_{bed}"] = tasks_over_time(beds[bed], one)
    paths = []
    for name, figure in made.items():
        if figure is not None:
            paths.append(images / f"{name}.png")
            figure.savefig(paths[-1], dpi=_DPI)
    return paths
