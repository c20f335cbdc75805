"""The report's figures. Each is drawn from a group of methods; None if there is no data for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
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
from roml_jax.report.series import Draws, Tested, curve
from roml_jax.samplers.drawn import Spread
from roml_jax.tasks import TaskFamily

_UNITS = {  # of the package's own environments; a robot of one's own may use the name for something else
    ("khazad_dum", "noise"): "cells", ("cheetah_vel", "velocity"): "m/s", ("humanoid_vel", "velocity"): "m/s",
    ("ant_vel", "velocity"): "m/s", ("ant_goal", "x"): "m", ("ant_goal", "y"): "m",
}  # fmt: skip


def _alpha(group: Group) -> str:
    """The name of the metric CVaR, with its risk level if all methods have the same."""
    levels = {method.alpha for method in group.methods}
    return f"CVaR {levels.pop():g}" if len(levels) == 1 else "CVaR (each at its own alpha)"


def _looks(group: Group) -> dict[str, style.Look]:
    """The look of each method, by its label."""
    labels = [method.label for method in group.methods]
    return dict(zip(labels, style.looks([method.sampler for method in group.methods]), strict=True))


def _curves(group: Group, titles: Mapping[str, str]) -> Figure | None:
    """Metrics against frames, with 95 % intervals over seeds; None if no seed has two values of one.

    Args:
        group: the methods.
        titles: of the panels, by metric.
    """
    found = [(titles[name], [curve(method, name) for method in group.methods]) for name in titles]
    found = [(title, curves) for title, curves in found if any(curves)]
    if not found:
        return None
    figure, axes = style.panels(len(found))
    for axis, (title, curves) in zip(axes, found, strict=True):
        most = max(points.x[-1] for points in curves if points)
        scale, x_label = style.frames_axis(axis, most)
        ends = {}
        for (label, look), points in zip(_looks(group).items(), curves, strict=True):
            if points is None:
                continue
            x, y = points.x / scale, points.y
            axis.fill_between(x, y.low, y.high, color=look.colour, alpha=0.18, lw=0)
            axis.plot(x, y.mean, color=look.colour, lw=1.6, ls=look.dash)
            ends[label] = (x[-1], y.mean[np.isfinite(y.mean)][-1], look.colour)
        axis.set_xlim(0, most / scale)
        style.name_axes(axis, title, x_label, "return per episode")
        style.label_ends(axis, ends)
    return figure


def learning(group: Group) -> Figure | None:
    """Held-out mean and held-out CVaR against frames."""
    titles = {"return_mean": "mean", "cvar": _alpha(group)}
    return _curves(group, {f"eval/{name}": f"Held-out tasks: {title}" for name, title in titles.items()})


def training(group: Group) -> Figure | None:
    """Return on training tasks against frames: each method's own tasks, so it compares no methods."""
    return _curves(group, {"train/return_mean": "Each method's own training tasks"})


def final(group: Group) -> Figure | None:
    """Mean and CVaR of the final test: for each method the interval, and a dot per seed."""
    methods = [method for method in group.methods if method.final("return_mean")]
    if not methods:
        return None
    figure, axes = style.panels(2, size=(4.4, 0.9 + 0.42 * len(methods)))
    looks = _looks(group)
    for axis, (metric, title) in zip(axes, (("return_mean", "Mean"), ("cvar", _alpha(group))), strict=True):
        for row, method in enumerate(methods):
            values, colour = list(method.final(metric).values()), looks[method.label].colour
            interval = bootstrap(values)
            spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
            axis.scatter(values, row + 0.24 + 0.4 * spread, s=9, color=colour, alpha=0.45, lw=0)
            if interval.n > 1:
                axis.plot(
                    [interval.low, interval.high], [row, row], color=colour, lw=2.4, solid_capstyle="butt"
                )
            axis.plot(interval.mean, row, "o", color=colour, ms=6.5)
        labels = [method.label + ("" if method.tested else " (not tested yet)") for method in methods]
        axis.set(yticks=range(len(methods)), yticklabels=labels)
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
    middle = float(np.asarray(family.decode(jnp.asarray(np.full(family.proposal.dims, 0.5, np.float32))))[i])
    return abs(middle - np.sqrt(low * high)) < abs(middle - (low + high) / 2)


def _with_unit(group: Group, family: TaskFamily, i: int) -> str:
    """A dimension's name with its unit."""
    name = family.names[i]
    unit = "factor" if _log_scaled(family, i) else _UNITS.get((group.env.split(",")[0], name))
    return f"{name} ({unit})" if unit else name


def _task_ticks(axis: Axis, low: float, high: float) -> None:
    """Sets the ticks of a logarithmic axis to powers of 2, written as plain numbers."""
    exponents = np.arange(np.floor(np.log2(low)), np.ceil(np.log2(high)) + 1)
    axis.set_major_locator(FixedLocator(2.0**exponents))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(ScalarFormatter())


def _finish_over_tasks(
    axis: Axes,
    group: Group,
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
    style.name_axes(axis, title, _with_unit(group, family, i), y)
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
        for label, (colour, dash) in _looks(group).items():
            if label not in found:
                continue
            records = found[label]
            tasks, returns = records.tasks[:, i], records.returns.mean(axis=2)  # (M,), (seeds, M)
            axis.scatter(tasks, returns.mean(axis=0), s=5, color=colour, alpha=0.22, lw=0)
            groups = bins(tasks, 10)
            x = [np.median(tasks[part]) for part in groups]
            interval = bootstrap(np.stack([returns[:, part].mean(axis=1) for part in groups], axis=1))
            axis.fill_between(x, interval.low, interval.high, color=colour, alpha=0.2, lw=0)
            axis.plot(x, interval.mean, color=colour, lw=1.8, ls=dash)
            ends[label] = (x[-1], interval.mean[-1], colour)
        _finish_over_tasks(axis, group, family, i, f"Return against {name}", "return per episode", ends)
    return figure


def sampler(group: Group, drawn: Mapping[str, Draws], family: TaskFamily, prior: Spread) -> Figure | None:
    """Mean and middle 80 % of the tasks that samplers draw over time, and of the prior.

    Args:
        group: the methods.
        drawn: what the samplers draw, by the method's label.
        family: the task family.
        prior: of one distribution, the prior.
    """
    if not drawn:
        return None
    figure, axes = style.panels(len(family.names))
    looks = _looks(group)
    for i, (axis, name) in enumerate(zip(axes, family.names, strict=True)):
        most = max(draws.x[-1] for draws in drawn.values())
        scale, x_label = style.frames_axis(axis, most)
        mean, low, high = (float(values[0, i]) for values in prior)
        axis.axhspan(low, high, color=style.FAINT, alpha=0.13, lw=0)
        axis.axhline(mean, color=style.FAINT, lw=1.2, ls="--")
        ends = {"prior": (most / scale, mean, style.FAINT)}
        for label, draws in drawn.items():
            x, (colour, dash) = draws.x / scale, looks[label]
            axis.fill_between(x, draws.low[:, i], draws.high[:, i], color=colour, alpha=0.15, lw=0)
            if len(draws.by_seed) > 1:
                axis.plot(x, draws.by_seed[:, :, i].T, color=colour, lw=0.6, alpha=0.5)
            axis.plot(x, draws.mean[:, i], color=colour, lw=1.8, ls=dash)
            ends[label] = (x[-1], draws.mean[-1, i], colour)
        axis.set_xlim(0, most / scale)
        style.name_axes(axis, f"Tasks drawn: {name}", x_label, f"{_with_unit(group, family, i)}, tasks drawn")
        style.label_ends(axis, ends)
    return figure


def _episodes(method: Method, metric: str, count: int) -> Interval | None:
    """A metric of each column of a test as mean and interval over seeds, (K,)."""
    rows = [method.final(f"{metric}_episode_{k}") for k in range(count)]
    seeds = sorted(set.intersection(*(set(row) for row in rows)))
    return bootstrap([[row[seed] for row in rows] for seed in seeds]) if seeds else None


def adaptation(group: Group, tests: Mapping[str, Tested]) -> Figure | None:
    """Mean and CVaR over tasks of the return of each episode, or after each number of inner steps.

    Args:
        group: the methods.
        tests: what returns on a held-out task are, by the label of the methods that are drawn; all of them
            episodes, or all of them numbers of inner steps.
    """
    ticks = sorted({number for test in tests.values() for number in test.numbers})
    if len(ticks) < 2 or not any(method.final("return_episode_0") for method in group.methods):
        return None
    x_label, y_label = "episode on the task", "return of the episode"
    if not all(test.steps for test in tests.values()):
        x_label, y_label = "gradient steps on the task", "return after them"
    figure, axes = style.panels(2)
    metrics: Sequence[tuple[str, str]] = (("return", "mean"), ("cvar", f"{_alpha(group)} of these returns"))
    for axis, (metric, title) in zip(axes, metrics, strict=True):
        ends = {}
        for i, (method, (colour, dash)) in enumerate(zip(group.methods, _looks(group).values(), strict=True)):
            if method.label not in tests:
                continue
            x = np.array(tests[method.label].numbers)
            interval = _episodes(method, metric, len(x))
            if interval is None:
                continue
            shift = 0.06 * (i - (len(group.methods) - 1) / 2)
            axis.plot(x + shift, interval.mean, color=colour, lw=1.4, ls=dash, marker="o", ms=4.5)
            axis.vlines(x + shift, interval.low, interval.high, color=colour, lw=1.6)
            ends[method.label] = (x[-1] + 0.12, interval.mean[-1], colour)
        axis.set_xlim(ticks[0] - 0.2, ticks[-1] + 0.2)
        axis.set_xticks(ticks)
        style.name_axes(axis, f"Adaptation: {title}", x_label, y_label)
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
    looks = _looks(group)
    for i, axis in enumerate(axes):
        ends = {}
        for label, values in against.items():
            colour, dash = looks[label]
            groups = bins(tasks[:, i], 10)
            x = [np.median(tasks[part, i]) for part in groups]
            mean = [values[part].mean() for part in groups]
            axis.scatter(tasks[:, i], values, s=5, color=colour, alpha=0.3, lw=0)
            axis.plot(x, mean, color=colour, lw=1.8, ls=dash)
            ends[label] = (x[-1], mean[-1], colour)
        axis.axhline(0.0, color=style.FAINT, lw=1.0)
        _finish_over_tasks(
            axis, group, family, i, f"Difference from {baseline}", "difference of returns", ends
        )
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
