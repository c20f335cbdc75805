"""The difference of two runs on the same tasks: paired by task, and by seed where the seeds are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from roml_jax import console as output
from roml_jax.errors import ConfigError
from roml_jax.evaluate import intervals, tables, verdict
from roml_jax.evaluate.intervals import (
    Interval,
    decimals,
    difference,
    iqm,
    probability_of_improvement,
    resampled,
)
from roml_jax.evaluate.records import Records

ONE_SEED = (
    "One seed on a side: the differences describe these learners. They do not compare the methods: other "
    "seeds may differ by more."
)


class Tail(NamedTuple):
    """The difference of CVaR at one level, and the number of tasks in each run's tail."""

    alpha: float
    tasks: int
    difference: Interval


class Part(NamedTuple):
    """A group of tasks with similar values of one dimension, and the difference of their mean returns."""

    low: float
    high: float
    tasks: int
    difference: Interval


class Versus(NamedTuple):
    """The difference ``first - second`` of two groups of seeds on the same tasks.

    Attributes:
        label: the swept setting, "" without a sweep.
        first: name of the first run.
        second: name of the second run.
        seeds: number of seeds of each.
        pairs: number of common seeds. Two or more are paired; otherwise all seeds are resampled
            independently.
        tasks: number of tasks.
        mean: difference of the mean returns.
        tails: differences of CVaR; empty on a grid.
        iqm: difference of the interquartile means; the interval resamples whole seeds, pairs together.
        probability: probability that a seed of the first has a higher return than one of the second,
            averaged over tasks; the interval resamples whole seeds, pairs together.
        probability_by_task: the same with the interval of rliable's stratified bootstrap.
        better: share of the tasks on which the first has the higher mean return over seeds.
        by_task: (M,) difference on each task, averaged over seeds.
        by_dimension: differences by groups of tasks, by the dimension's name.
        losses: the tasks with the lowest differences, lowest first; ``returns`` is the difference.
        gains: the tasks with the highest differences, highest first.
    """

    label: str
    first: str
    second: str
    seeds: tuple[int, int]
    pairs: int
    tasks: int
    mean: Interval
    tails: list[Tail]
    iqm: Interval
    probability: Interval
    probability_by_task: Interval
    better: float
    by_task: np.ndarray
    by_dimension: dict[str, list[Part]]
    losses: list[verdict.Hard]
    gains: list[verdict.Hard]


def _by_seed(records: Records) -> dict[int, np.ndarray]:
    """Return of each task (M,), by seed."""
    return {seed.seed: row for seed, row in zip(records.seeds, records.by_task, strict=True)}


def _each(values: dict[int, np.ndarray], statistic: Callable[..., float]) -> dict[int, float]:
    """A statistic of each seed's returns."""
    return {seed: float(statistic(row)) for seed, row in values.items()}


def compare(
    first: Records, second: Records, names: tuple[str, str], label: str = "", count: int = 5
) -> Versus:
    """Compares the seeds of two records, which are on the same tasks.

    Args:
        first: the first run's results; without swept settings, or of one of them.
        second: the second run's.
        names: of the two.
        label: the swept setting.
        count: number of tasks in ``losses`` and in ``gains``.
    """
    a, b = _by_seed(first), _by_seed(second)
    common = intervals.common(a, b)
    x, y = (np.stack([side[seed] for seed in common or side]) for side in (a, b))
    by_task = difference(a, b)
    order = np.argsort(by_task.mean, kind="stable")
    alphas = sorted({*verdict.ALPHAS, *first.alpha, *second.alpha}) if first.chosen == "prior" else []

    def hard(where: Iterable[int]) -> list[verdict.Hard]:
        return [
            verdict.Hard(
                int(m),
                dict(zip(first.names, map(float, first.tasks[m]), strict=True)),
                Interval(by_task.mean[m], by_task.low[m], by_task.high[m], by_task.n),
                None,
            )
            for m in where
        ]

    def in_statistic(statistic: Callable[..., float]) -> Interval:
        return difference(_each(a, statistic), _each(b, statistic))

    def tail(alpha: float) -> Tail:
        in_cvar = in_statistic(lambda row: verdict.cvar(row, alpha))
        return Tail(alpha, verdict.tail(alpha, x.shape[1]), in_cvar)

    def parts(dimension: int) -> list[Part]:
        tasks = first.tasks[:, dimension]
        return [
            Part(
                float(tasks[group].min()), float(tasks[group].max()), len(group),
                in_statistic(lambda row, at=group: row[at].mean()),
            )
            for group in verdict.groups(first, dimension)
        ]  # fmt: skip

    def in_aggregate(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        """Of all common seeds, resampled together; of all seeds of both if there are no pairs."""
        return resampled(statistic, x, y, together=common is not None)

    return Versus(
        label, *names, (len(a), len(b)), len(a.keys() & b.keys()), x.shape[1],
        in_statistic(np.mean), [tail(alpha) for alpha in alphas],
        in_aggregate(lambda x, y: iqm(x) - iqm(y)), in_aggregate(probability_of_improvement),
        resampled(probability_of_improvement, x, y, by_task=True), float((by_task.mean > 0).mean()),
        by_task.mean, {name: parts(i) for i, name in enumerate(first.names)}, hard(order[:count]),
        hard(order[::-1][:count]),
    )  # fmt: skip


Places = Mapping[str, Sequence[int]]  # positions of a run's seeds, by the label of their swept setting


def matched(mine: Places, theirs: Places, names: tuple[str, str]) -> dict[str, tuple[Any, Any]]:
    """The settings of two runs that are compared, as their positions in both, by label.

    A run without a sweep, or of one setting, is compared with every setting of the other.

    Args:
        mine: settings of the first run.
        theirs: of the second.
        names: of the two.

    Raises:
        ConfigError: if both runs have sweeps without a common setting; one line.
    """
    if len(theirs) == 1:
        return {label: (where, next(iter(theirs.values()))) for label, where in mine.items()}
    if len(mine) == 1:
        return {label: (next(iter(mine.values())), where) for label, where in theirs.items()}
    pairs = {label: (where, theirs[label]) for label, where in mine.items() if label in theirs}
    if not pairs:
        raise ConfigError(
            f"{names[0]} and {names[1]} have no swept setting in common: {'; '.join(mine)} and "
            f"{'; '.join(theirs)}"
        )
    return pairs


def settings(first: Records, second: Records, names: tuple[str, str], count: int = 5) -> list[Versus]:
    """Compares each swept setting of the first run with that of the second; see ``matched``.

    Raises:
        ConfigError: as ``matched``.
    """
    pairs = matched(verdict.places(first.seeds), verdict.places(second.seeds), names)
    return [
        compare(verdict.only(first, where), verdict.only(second, other), names, label, count)
        for label, (where, other) in pairs.items()
    ]


def _kind(versus: Versus) -> str:
    """Suffix of a table's title: how the seeds are paired."""
    of = f" ({versus.label})" if versus.label else ""
    if min(versus.seeds) < 2:
        return f"{of}, no interval"
    if versus.pairs > 1:
        return f"{of}, {versus.pairs} seeds in pairs [95 % bootstrap]"
    common = "without a common one" if versus.pairs == 0 else "with one in common, not in pairs"
    return f"{of}, {versus.seeds[0]} and {versus.seeds[1]} seeds {common} [95 % bootstrap]"


def show(console: Console, versus: Versus) -> None:
    """Prints the tables of a comparison."""
    digits = decimals([float(np.abs(versus.by_task).max(initial=0.0)), float(versus.mean.mean)])
    title, of = f"{versus.first} - {versus.second}", f" ({versus.label})" if versus.label else ""
    table = tables.new(title + _kind(versus), "", "difference", "tasks")
    table.add_row("mean", tables.signed(versus.mean, digits), str(versus.tasks))
    table.add_row("IQM over seeds and tasks", tables.signed(versus.iqm, digits), str(versus.tasks))
    for tail in versus.tails:
        count = f"{tail.tasks} of {versus.tasks}"
        table.add_row(f"CVaR {tail.alpha:g}", tables.signed(tail.difference, digits), count)
    output.show_table(console, table)
    table = tables.new(f"How often {versus.first} is better{of}", "", "share")
    table.add_row("tasks on which its mean over seeds is higher", tables.percent(versus.better))
    table.add_row("probability of improvement, a seed against a seed", tables.in_percent(versus.probability))
    if min(versus.seeds) > 1:
        by_task = tables.in_percent(versus.probability_by_task)
        table.add_row("  with rliable's interval, seeds drawn by task", by_task)
    output.show_table(console, table)
    for name, parts in versus.by_dimension.items():
        table = tables.new(f"{title} against {name}{of}", name, "tasks", "difference of means")
        for part in parts:
            cells = (str(part.tasks), tables.signed(part.difference, digits))
            table.add_row(tables.span(part.low, part.high), *cells)
        output.show_table(console, table)
    for what, tasks in (("Largest losses of", versus.losses), ("Largest gains of", versus.gains)):
        if tasks:
            output.show_table(
                console, tables.hard_table(f"{what} {title}{of}", tasks, digits, False, "difference")
            )
    if min(versus.seeds) < 2:
        output.say(console, ONE_SEED, style="yellow")
