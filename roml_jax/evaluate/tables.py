"""Console tables of returns on held-out tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from roml_jax import risk
from roml_jax.evaluate.intervals import bootstrap, decimals
from roml_jax.evaluate.records import Records

ALPHAS = (0.01, 0.05, 0.1, 0.2, 0.5)
_BINS = 8


class _Setting(NamedTuple):
    """The seeds of one swept setting: label, risk level, and positions of the seeds in the records."""

    label: str
    alpha: float
    places: list[int]


def _settings(records: Records) -> Iterator[_Setting]:
    seen: dict[str, list[int]] = {}
    for place, run in enumerate(records.seeds):
        label = ", ".join(f"{name}={value:g}" for name, value in run.settings.items())
        seen.setdefault(label, []).append(place)
    for label, places in seen.items():
        yield _Setting(label, records.alpha[places[0]], places)


def cvar(returns: np.ndarray, alpha: float) -> float:
    """CVaR_alpha of returns (M,)."""
    return float(risk.cvar(jnp.asarray(returns), alpha))


def var(returns: np.ndarray, alpha: float) -> float:
    """Value at risk: the alpha-quantile of returns (M,)."""
    return float(risk.quantile(jnp.asarray(returns), alpha))


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    return table


def _over(seeds: int, setting: _Setting) -> str:
    """Suffix of a table's title: the setting, the number of seeds, and the kind of interval."""
    of = f" ({setting.label})" if setting.label else ""
    return f"{of}, mean over {seeds} seeds [95 % bootstrap]" if seeds > 1 else f"{of}, one seed: no interval"


def _risk_table(records: Records, setting: _Setting) -> Table:
    """CVaR and VaR at several risk levels. A task's return is the mean over its episodes."""
    by_task = records.returns[setting.places].mean(axis=2)  # (seeds, M)
    table = _table("Return by risk level" + _over(len(by_task), setting), "alpha", "CVaR", "VaR")
    digits = decimals(by_task)
    for alpha in sorted({*ALPHAS, setting.alpha}):
        tails = bootstrap([cvar(seed, alpha) for seed in by_task])
        levels = bootstrap([var(seed, alpha) for seed in by_task])
        note = " (the run's)" if alpha == setting.alpha else ""
        table.add_row(f"{alpha:g}{note}", tails.text(digits), levels.text(digits))
    table.add_row("1 (mean)", bootstrap(by_task.mean(axis=1)).text(digits), "")
    table.add_row("worst task", bootstrap(by_task.min(axis=1)).text(digits), "")
    return table


def _seeds_table(records: Records, setting: _Setting) -> Table:
    by_task = records.returns[setting.places].mean(axis=2)
    alpha, digits = setting.alpha, decimals(by_task)
    table = _table(
        "By seed", "seed", "iterations", "mean", f"CVaR {alpha:g}", f"VaR {alpha:g}", "worst task", "diverged"
    )
    for place, seed in zip(setting.places, by_task, strict=True):
        numbers = (seed.mean(), cvar(seed, alpha), var(seed, alpha), seed.min())
        diverged = int(records.diverged[place].any(axis=1).sum())
        table.add_row(
            records.seeds[place].label, str(records.iterations[place]),
            *(f"{number:.{digits}f}" for number in numbers), str(diverged),
        )  # fmt: skip
    return table


def _adaptation_table(records: Records, setting: _Setting) -> Table:
    """Mean and CVaR of the returns, separately for each episode."""
    returns = records.returns[setting.places]  # (seeds, M, K)
    prior, digits = records.chosen == "prior", decimals(returns)
    heads = ("episode", "mean", *((f"CVaR {setting.alpha:g} of that episode",) if prior else ()))
    table = _table("Adaptation" + _over(len(returns), setting), *heads)
    for k in range(returns.shape[2]):
        cells = [bootstrap(returns[:, :, k].mean(axis=1)).text(digits)]
        if prior:
            cells.append(bootstrap([cvar(seed[:, k], setting.alpha) for seed in returns]).text(digits))
        table.add_row(str(k), *cells)
    return table


def bins(tasks: np.ndarray, count: int = _BINS) -> list[np.ndarray]:
    """Divides tasks into groups of about equal size, in ascending order. Equal tasks share a group.

    Args:
        tasks: (M,) one dimension of the tasks.
        count: maximum number of groups.

    Returns:
        The positions of the tasks in each group.
    """
    edges = np.unique(np.quantile(tasks, np.linspace(0, 1, count + 1)[1:-1]))
    group = np.searchsorted(edges, tasks, side="right")
    return [np.flatnonzero(group == g) for g in range(len(edges) + 1) if (group == g).any()]


def _tasks_table(records: Records, setting: _Setting, dimension: int) -> Table:
    """Return against one dimension of the task."""
    by_task = records.returns[setting.places].mean(axis=2)
    tasks, digits = records.tasks[:, dimension], decimals(by_task)
    name = records.names[dimension]
    title = f"Return against {name}" + _over(len(by_task), setting)
    table = _table(title, name, "tasks", "mean", "worst task")
    for group in bins(tasks):
        in_bin = by_task[:, group]
        low, high = tasks[group].min(), tasks[group].max()
        table.add_row(
            f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}", str(len(group)),
            bootstrap(in_bin.mean(axis=1)).text(digits), bootstrap(in_bin.min(axis=1)).text(digits),
        )  # fmt: skip
    return table


def show(console: Console, records: Records) -> None:
    """Prints all tables. A grid has no CVaR and VaR, because its tasks are not drawn from the prior."""
    for setting in _settings(records):
        if records.chosen == "prior":
            console.print(_risk_table(records, setting))
            console.print(_seeds_table(records, setting))
        console.print(_adaptation_table(records, setting))
        for dimension in range(len(records.names)):
            console.print(_tasks_table(records, setting, dimension))
