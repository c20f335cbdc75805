"""The report's figures. Each is drawn from a group of methods; None if there is no data for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, ScalarFormatter

from roml_jax.evaluate.intervals import Interval, bootstrap, decimals
from roml_jax.evaluate.records import Records
from roml_jax.evaluate.tables import span
from roml_jax.evaluate.verdict import Map, bins
from roml_jax.report import style
from roml_jax.report.data import Group, Method
from roml_jax.report.series import SPREAD, Draws, curve
from roml_jax.tasks import TaskFamily

_UNITS = {"velocity": "m/s", "noise": "cells", "goal_x": "m", "goal_y": "m"}


def _alpha(group: Group) -> str:
    """The name of the metric CVaR, with its risk level if all methods have the same."""
    levels = {method.alpha for method in group.methods}
    return f"CVaR {levels.pop():g}" if len(levels) == 1 else "CVaR (each at its own alpha)"


def _colours(group: Group) -> list[str]:
    return style.colours([method.sampler for method in group.methods])


def learning(group: Group, episodes: int) -> Figure | None:
    """Training return, held-out mean and held-out CVaR against frames, with 95 % intervals over seeds.

    Args:
        group: the methods.
        episodes: K. The training return is a sum over the K episodes and is divided by K.
    """
    panels = [
        ("train/return", "Training tasks", "return per episode", 1 / episodes),
        ("eval/return_mean", "Held-out tasks: mean", "return per episode", 1.0),
        ("eval/cvar", f"Held-out tasks: {_alpha(group)}", "return per episode", 1.0),
    ]
    drawn = []
    for metric, title, label, factor in panels:
        curves = [curve(method, metric) for method in group.methods]
        if any(curves):
            drawn.append((title, label, factor, curves))
    if not drawn:
        return None
    figure, axes = style.panels(len(drawn))
    for axis, (title, label, factor, curves) in zip(axes, drawn, strict=True):
        most = max(points.x[-1] for points in curves if points)
        scale, x_label = style.frames_axis(axis, most)
        ends = {}
        for i, (method, colour, points) in enumerate(
            zip(group.methods, _colours(group), curves, strict=True)
        ):
            if points is None:
                continue
            x, mean = points.x / scale, factor * points.y.mean
            axis.fill_between(
                x, factor * points.y.low, factor * points.y.high, color=colour, alpha=0.18, lw=0
            )
            axis.plot(x, mean, color=colour, lw=1.6, ls=style.line(i))
            ends[method.label] = (x[-1], mean[np.isfinite(mean)][-1], colour)
        axis.set_xlim(0, most / scale)
        style.name_axes(axis, title, x_label, label)
        style.label_ends(axis, ends)
    return figure


def final(group: Group) -> Figure | None:
    """Mean and CVaR of the final test: for each method the interval, and a dot per seed."""
    methods = [method for method in group.methods if method.final("return_mean")]
    if not methods:
        return None
    figure, axes = style.panels(2, size=(4.4, 0.9 + 0.42 * len(methods)))
    colours = dict(zip([method.label for method in group.methods], _colours(group), strict=True))
    for axis, (metric, title) in zip(axes, (("return_mean", "Mean"), ("cvar", _alpha(group))), strict=True):
        for row, method in enumerate(methods):
            values, colour = list(method.final(metric).values()), colours[method.label]
            interval = bootstrap(values)
            spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
            axis.scatter(values, row + 0.24 + 0.4 * spread, s=9, color=colour, alpha=0.45, lw=0)
            if interval.n > 1:
                axis.plot(
                    [interval.low, interval.high], [row, row], color=colour, lw=2.4, solid_capstyle="butt"
                )
            axis.plot(interval.mean, row, "o", color=colour, ms=6.5)
        axis.set(yticks=range(len(methods)), yticklabels=[method.label for method in methods])
        axis.set_ylim(len(methods) - 0.4, -0.55)
        axis.grid(axis="y", lw=0)
        axis.grid(axis="x", color="#e6e6e6", lw=0.6)
        axis.tick_params(axis="y", length=0)
        style.name_axes(axis, f"Final test: {title}", "return per episode", "")
    axes[1].set_yticklabels([])
    return figure


def _log_scaled(family: TaskFamily, i: int) -> bool:
    """Whether a prior is log-uniform: its median is nearer the geometric than the arithmetic mean."""
    low, high = family.ranges[i]
    if not (family.proposal.uniform_prior and 0 < low < high < np.inf):
        return False
    middle = float(np.asarray(family.decode(np.full(family.proposal.dims, 0.5, np.float32)))[i])
    return abs(middle - np.sqrt(low * high)) < abs(middle - (low + high) / 2)


def _with_unit(family: TaskFamily, i: int) -> str:
    """A dimension's name with its unit."""
    name = family.names[i]
    unit = "factor" if _log_scaled(family, i) else _UNITS.get(name)
    return f"{name} ({unit})" if unit else name


def _task_ticks(axis: Axis, low: float, high: float) -> None:
    """Sets the ticks of a logarithmic axis to powers of 2, written as plain numbers."""
    exponents = np.arange(np.floor(np.log2(low)), np.ceil(np.log2(high)) + 1)
    axis.set_major_locator(FixedLocator(2.0**exponents))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(ScalarFormatter())


def _finish_over_tasks(
    axis: Axes,
    family: TaskFamily,
    i: int,
    title: str,
    y: str,
    ends: Mapping[str, tuple[float, float, str]],
) -> None:
    """Scale, names and labels of a panel whose x is dimension i of the task."""
    if _log_scaled(family, i):
        axis.set_xscale("log", base=2)
        _task_ticks(axis.xaxis, *family.ranges[i])
    style.name_axes(axis, title, _with_unit(family, i), y)
    style.label_ends(axis, ends)


def against_task(group: Group, found: Mapping[str, Records], family: TaskFamily) -> Figure | None:
    """Return against each dimension of the task: a dot per task, and means over groups of tasks.

    Args:
        group: the methods.
        found: records by the method's label.
        family: the task family.
    """
    if not found:
        return None
    figure, axes = style.panels(len(family.names))
    for i, (axis, name) in enumerate(zip(axes, family.names, strict=True)):
        ends = {}
        for j, (method, colour) in enumerate(zip(group.methods, _colours(group), strict=True)):
            if method.label not in found:
                continue
            records = found[method.label]
            tasks, returns = records.tasks[:, i], records.returns.mean(axis=2)  # (M,), (seeds, M)
            axis.scatter(tasks, returns.mean(axis=0), s=5, color=colour, alpha=0.22, lw=0)
            groups = bins(tasks, 10)
            x = [np.median(tasks[part]) for part in groups]
            interval = bootstrap(np.stack([returns[:, part].mean(axis=1) for part in groups], axis=1))
            axis.fill_between(x, interval.low, interval.high, color=colour, alpha=0.2, lw=0)
            axis.plot(x, interval.mean, color=colour, lw=1.8, ls=style.line(j))
            ends[method.label] = (x[-1], interval.mean[-1], colour)
        _finish_over_tasks(axis, family, i, f"Return against {name}", "return per episode", ends)
    return figure


def sampler(group: Group, drawn: Mapping[str, Draws], family: TaskFamily) -> Figure | None:
    """Mean and middle 80 % of the tasks that samplers draw over time, and of the prior.

    Args:
        group: the methods.
        drawn: what the samplers draw, by the method's label.
        family: the task family.
    """
    if not drawn:
        return None
    figure, axes = style.panels(len(family.names))
    prior = np.asarray(family.decode(family.proposal.sample(family.proposal.phi0, jax.random.key(0), 4096)))
    colours = dict(zip([method.label for method in group.methods], _colours(group), strict=True))
    for i, (axis, name) in enumerate(zip(axes, family.names, strict=True)):
        most = max(draws.x[-1] for draws in drawn.values())
        scale, x_label = style.frames_axis(axis, most)
        low, high = np.quantile(prior[:, i], SPREAD)
        axis.axhspan(low, high, color=style.FAINT, alpha=0.13, lw=0)
        axis.axhline(prior[:, i].mean(), color=style.FAINT, lw=1.2, ls="--")
        ends = {"prior": (most / scale, float(prior[:, i].mean()), style.FAINT)}
        for label, draws in drawn.items():
            x, colour = draws.x / scale, colours[label]
            axis.fill_between(x, draws.low[:, i], draws.high[:, i], color=colour, alpha=0.15, lw=0)
            if len(draws.by_seed) > 1:
                axis.plot(x, draws.by_seed[:, :, i].T, color=colour, lw=0.6, alpha=0.5)
            axis.plot(x, draws.mean[:, i], color=colour, lw=1.8)
            ends[label] = (x[-1], draws.mean[-1, i], colour)
        axis.set_xlim(0, most / scale)
        style.name_axes(axis, f"Tasks drawn: {name}", x_label, f"{_with_unit(family, i)}, tasks drawn")
        style.label_ends(axis, ends)
    return figure


def _episodes(method: Method, metric: str, count: int) -> Interval | None:
    """A metric of each episode as mean and interval over seeds, (K,)."""
    rows = [method.final(f"{metric}_episode_{k}") for k in range(count)]
    seeds = sorted(set.intersection(*(set(row) for row in rows)))
    return bootstrap([[row[seed] for row in rows] for seed in seeds]) if seeds else None


def adaptation(group: Group, episodes: int) -> Figure | None:
    """Mean and CVaR over tasks of the return of each episode.

    Args:
        group: the methods.
        episodes: K, episodes per task.
    """
    if episodes < 2 or not any(method.final("return_episode_0") for method in group.methods):
        return None
    figure, axes = style.panels(2)
    x = np.arange(episodes)
    metrics: Sequence[tuple[str, str]] = (("return", "mean"), ("cvar", f"{_alpha(group)} of that episode"))
    for axis, (metric, title) in zip(axes, metrics, strict=True):
        ends = {}
        for i, (method, colour) in enumerate(zip(group.methods, _colours(group), strict=True)):
            interval = _episodes(method, metric, episodes)
            if interval is None:
                continue
            shift = 0.06 * (i - (len(group.methods) - 1) / 2)
            axis.plot(x + shift, interval.mean, color=colour, lw=1.4, ls=style.line(i), marker="o", ms=4.5)
            axis.vlines(x + shift, interval.low, interval.high, color=colour, lw=1.6)
            ends[method.label] = (episodes - 0.88, interval.mean[-1], colour)
        axis.set_xlim(-0.2, episodes - 0.8)
        axis.set_xticks(x)
        style.name_axes(axis, f"Adaptation: {title}", "episode on the task", "return of the episode")
        style.label_ends(axis, ends)
    return figure


def differences(
    group: Group, against: Mapping[str, np.ndarray], tasks: np.ndarray, family: TaskFamily, baseline: str
) -> Figure | None:
    """Difference of each task's return from the baseline, against each dimension of the task.

    Args:
        group: the methods.
        against: differences (M,), averaged over seeds, by the method's label.
        tasks: (M, d).
        family: the task family.
        baseline: label of the baseline.
    """
    if not against:
        return None
    figure, axes = style.panels(len(family.names))
    colours = dict(zip([method.label for method in group.methods], _colours(group), strict=True))
    for i, axis in enumerate(axes):
        ends = {}
        for j, (label, values) in enumerate(against.items()):
            groups = bins(tasks[:, i], 10)
            x = [np.median(tasks[part, i]) for part in groups]
            mean = [values[part].mean() for part in groups]
            axis.scatter(tasks[:, i], values, s=5, color=colours[label], alpha=0.3, lw=0)
            axis.plot(x, mean, color=colours[label], lw=1.8, ls=style.line(j))
            ends[label] = (x[-1], mean[-1], colours[label])
        axis.axhline(0.0, color=style.FAINT, lw=1.0)
        _finish_over_tasks(axis, family, i, f"Difference from {baseline}", "difference of returns", ends)
    return figure


def maps(found: Mapping[str, Sequence[Map]]) -> Figure | None:
    """Mean return over two dimensions of the task: a row of panels per method, a column per pair.

    Args:
        found: the maps by the method's label, of the same pairs in the same order.
    """
    pairs = len(next(iter(found.values()), ()))
    if not pairs:
        return None
    figure, axes = style.panels(len(found) * pairs, columns=pairs)
    for row, (label, made) in enumerate(found.items()):
        for column, one in enumerate(made):
            axis, all_means = axes[row * pairs + column], [other[column].mean for other in found.values()]
            low, high = np.nanmin(all_means), np.nanmax(all_means)
            axis.imshow(one.mean, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
            digits = decimals([low, high])
            for (y, x), mean in np.ndenumerate(one.mean):
                if np.isfinite(mean):
                    dark = high > low and (mean - low) / (high - low) < 0.6
                    axis.text(
                        x, y, f"{mean:.{digits}f}", ha="center", va="center", fontsize=8,
                        color="white" if dark else style.INK,
                    )  # fmt: skip
            style.name_axes(axis, label, one.x, one.y)
            columns = [span(*ends).replace("to ", "to\n") for ends in one.columns]
            axis.set_xticks(range(len(columns)), columns, fontsize=7)
            axis.set_yticks(range(len(one.rows)), [span(*ends) for ends in one.rows], fontsize=7)
            axis.grid(visible=False)
    return figure
