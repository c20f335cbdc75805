"""What a run's returns say, as numbers: risk, early ends, the worst tasks, and where in the task space.

``tables`` prints these numbers, ``report`` draws them and ``as_json`` writes them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from roml_jax import risk
from roml_jax.config import Seed
from roml_jax.evaluate.intervals import Interval, bootstrap, iqm, resampled
from roml_jax.evaluate.records import Records

ALPHAS = (0.01, 0.05, 0.1, 0.2, 0.5)
_BINS = 8
_POINTS = 64  # rows of a grid's table at most; a grid of more points is divided into groups
_MAP_BINS = 4  # groups along each side of a map
ONE_SEED = "One seed describes this learner. It does not compare methods: other seeds may differ by more."


class Level(NamedTuple):
    """Risk at one level alpha: the number of tasks in the tail, their mean (CVaR), and the quantile (VaR)."""

    alpha: float
    tasks: int
    cvar: Interval
    var: Interval


class Ends(NamedTuple):
    """Share of the episodes that end early, and steps per episode."""

    early: Interval
    length: Interval


class Episode(NamedTuple):
    """One episode over all tasks, or one number of inner steps (``Records.numbers``).

    ``cvar`` is None on a grid, ``ends`` for a learner that does not act.
    """

    episode: int
    mean: Interval
    cvar: Interval | None
    ends: Ends | None


class SeedRow(NamedTuple):
    """One seed. Risk is None on a grid; ``early`` and ``length`` for a learner that does not act."""

    label: str
    iterations: int
    mean: float
    cvar: float | None
    var: float | None
    worst_task: float
    best_task: float
    early: float | None
    length: float | None
    diverged_tasks: int


class Part(NamedTuple):
    """A group of tasks with similar values of one dimension."""

    low: float
    high: float
    tasks: int
    mean: Interval
    worst_task: Interval
    early: float | None


class Hard(NamedTuple):
    """A task with a low return, averaged over seeds: its number, its values, return and early ends."""

    number: int
    task: dict[str, float]
    returns: Interval
    early: float | None


class Map(NamedTuple):
    """Mean return over two dimensions of the task. Arrays are (rows, columns); NaN in a cell without tasks.

    Attributes:
        x: name of the dimension of the columns.
        y: name of the dimension of the rows.
        columns: lowest and highest value of each column.
        rows: lowest and highest value of each row.
        tasks: number of tasks of each cell.
        mean: mean return of each cell over its tasks and the seeds.
        early: share of episodes that end early; None for a learner that does not act.
    """

    x: str
    y: str
    columns: list[tuple[float, float]]
    rows: list[tuple[float, float]]
    tasks: np.ndarray
    mean: np.ndarray
    early: np.ndarray | None


class Setting(NamedTuple):
    """The numbers of the seeds that share one swept setting.

    Attributes:
        label: the setting, "" without a sweep.
        alpha: the setting's risk level.
        seeds: the seeds.
        tasks: number of tasks.
        levels: risk by level; empty on a grid, as the risk levels of all later fields.
        mean: mean return.
        worst_task: return of the worst task.
        iqm: interquartile mean over seeds and tasks; the interval resamples whole seeds.
        iqm_by_task: the same with the interval of rliable's stratified bootstrap.
        ends: early ends and length; None for a learner that does not act.
        by_seed: each seed.
        column: what ``by_episode`` counts: "episode", or "inner steps" of a learner that does not act.
        by_episode: each episode, or the returns after each number of inner steps.
        by_dimension: groups of tasks, by the dimension's name.
        worst_tasks: the tasks with the lowest returns, lowest first.
        maps: returns over two dimensions.
    """

    label: str
    alpha: float
    seeds: list[int]
    tasks: int
    levels: list[Level]
    mean: Interval
    worst_task: Interval
    iqm: Interval
    iqm_by_task: Interval
    ends: Ends | None
    by_seed: list[SeedRow]
    column: str
    by_episode: list[Episode]
    by_dimension: dict[str, list[Part]]
    worst_tasks: list[Hard]
    maps: list[Map]


# one program each for a number of tasks and a level, where operations by themselves are fifteen
_cvar = jax.jit(risk.cvar, static_argnums=1)
_quantile = jax.jit(risk.quantile, static_argnums=1)


def cvar(returns: np.ndarray, alpha: float) -> float:
    """CVaR_alpha of returns (M,)."""
    return float(_cvar(returns, alpha))


def var(returns: np.ndarray, alpha: float) -> float:
    """Value at risk: the alpha-quantile of returns (M,)."""
    return float(_quantile(returns, alpha))


def tail(alpha: float, tasks: int) -> int:
    """The number of tasks whose mean is CVaR_alpha of this many tasks; see ``risk.cvar``."""
    return min(max(math.ceil(alpha * tasks * (1 - 1e-6)), 1), tasks)


def bins(tasks: np.ndarray, count: int = _BINS) -> list[np.ndarray]:
    """Divides tasks into groups of about equal size, in ascending order. Equal tasks share a group.

    Args:
        tasks: (M,) one dimension of the tasks.
        count: maximum number of groups.

    Returns:
        The positions of the tasks in each group.
    """
    different = np.unique(tasks)
    if len(different) <= count:
        return [np.flatnonzero(tasks == value) for value in different]
    edges = np.unique(np.quantile(tasks, np.linspace(0, 1, count + 1)[1:-1]))
    group = np.searchsorted(edges, tasks, side="right")
    return [np.flatnonzero(group == g) for g in range(len(edges) + 1) if (group == g).any()]


def _line(tasks: np.ndarray, dimension: int) -> np.ndarray:
    """The tasks along one dimension of a grid of lines (M, d > 2): the others are at their medians.

    All tasks if the grid is not of lines: a finite set, or numbers of a task that change together.
    """
    median = np.median(tasks, axis=0)
    moved = ~np.isclose(tasks, median, rtol=1e-5, atol=1e-6 * np.ptp(tasks, axis=0))
    if tasks.shape[1] < 3 or (moved.sum(axis=1) > 1).any():
        return np.arange(len(tasks))
    return np.flatnonzero(~np.delete(moved, dimension, axis=1).any(axis=1))


def groups(records: Records, dimension: int) -> list[np.ndarray]:
    """The tasks in each row of a table over one dimension: one value of a grid, else about equally many.

    Of a grid of lines, these are the tasks on the dimension's own line.
    """
    if records.chosen != "grid":
        return bins(records.tasks[:, dimension])
    line = _line(records.tasks, dimension)
    tasks = records.tasks[line, dimension]
    points = len(np.unique(tasks))
    return [line[group] for group in bins(tasks, points if points <= _POINTS else _BINS)]


def places(seeds: Iterable[Seed]) -> dict[str, list[int]]:
    """Positions of seeds, by the label of their swept setting ("" without a sweep)."""
    seen: dict[str, list[int]] = {}
    for place, run in enumerate(seeds):
        label = ", ".join(f"{name}={value:g}" for name, value in run.settings.items())
        seen.setdefault(label, []).append(place)
    return seen


def only(records: Records, where: Sequence[int]) -> Records:
    """The records of some of the seeds, by position."""
    at = list(where)
    return records._replace(
        seeds=tuple(records.seeds[i] for i in at),
        iterations=records.iterations[at],
        alpha=tuple(records.alpha[i] for i in at),
        returns=records.returns[at],
        diverged=records.diverged[at],
        terms={name: term[at] for name, term in records.terms.items()},
        length=None if records.length is None else records.length[at],
    )


def ends(records: Records, episode: int | None = None) -> Ends | None:
    """Early ends and lengths of all episodes, or of one; None for a learner that does not act."""
    early, length = records.early, records.length
    if early is None or length is None:
        return None
    which = slice(None) if episode is None else slice(episode, episode + 1)
    return Ends(*(bootstrap(x[:, :, which].mean(axis=(1, 2))) for x in (early, length)))


def levels(records: Records, alphas: Sequence[float]) -> list[Level]:
    """CVaR and VaR of the returns by task, at each of the risk levels, ascending."""
    by_task = records.by_task
    return [
        Level(
            alpha,
            tail(alpha, by_task.shape[1]),
            bootstrap([cvar(seed, alpha) for seed in by_task]),
            bootstrap([var(seed, alpha) for seed in by_task]),
        )
        for alpha in sorted(set(alphas))
    ]


def _seed_rows(records: Records) -> list[SeedRow]:
    early, length, prior = records.early, records.length, records.chosen == "prior"
    return [
        SeedRow(
            seed.label, int(records.iterations[i]), float(returns.mean()),
            cvar(returns, records.alpha[i]) if prior else None,
            var(returns, records.alpha[i]) if prior else None, float(returns.min()), float(returns.max()),
            None if early is None else float(early[i].mean()),
            None if length is None else float(length[i].mean()),
            int(records.diverged[i].any(axis=1).sum()),
        )
        for i, (seed, returns) in enumerate(zip(records.seeds, records.by_task, strict=True))
    ]  # fmt: skip


def _episodes(records: Records) -> list[Episode]:
    prior = records.chosen == "prior"
    return [
        Episode(
            records.numbers[k],
            bootstrap(returns.mean(axis=1)),
            bootstrap([cvar(seed, records.alpha[0]) for seed in returns]) if prior else None,
            ends(records, k),
        )
        for k, returns in enumerate(np.moveaxis(records.returns, 2, 0))
    ]


def _parts(records: Records, dimension: int) -> list[Part]:
    """Groups of tasks along one dimension."""
    by_task, early, tasks = records.by_task, records.early, records.tasks[:, dimension]
    return [
        Part(
            float(tasks[group].min()), float(tasks[group].max()), len(group),
            bootstrap(by_task[:, group].mean(axis=1)), bootstrap(by_task[:, group].min(axis=1)),
            None if early is None else float(early[:, group].mean()),
        )
        for group in groups(records, dimension)
    ]  # fmt: skip


def hard(records: Records, where: Iterable[int]) -> list[Hard]:
    """The tasks at these positions, with their returns and early ends."""
    by_task, early = records.by_task, records.early
    return [
        Hard(
            int(m),
            dict(zip(records.names, map(float, records.tasks[m]), strict=True)),
            bootstrap(by_task[:, m]),
            None if early is None else float(early[:, m].mean()),
        )
        for m in where
    ]


def worst_tasks(records: Records, count: int) -> list[Hard]:
    """The tasks with the lowest returns, averaged over seeds; lowest first."""
    return hard(records, np.argsort(records.by_task.mean(axis=0), kind="stable")[:count])


def map_of(records: Records, x: int, y: int, count: int = _MAP_BINS) -> Map:
    """Mean return over two dimensions of the task.

    Args:
        records: the results.
        x: position of the dimension of the columns.
        y: position of the dimension of the rows.
        count: maximum number of groups along each side; a group has about equally many tasks.
    """
    sides = [bins(records.tasks[:, i], count) for i in (x, y)]
    spans = [
        [(float(records.tasks[g, i].min()), float(records.tasks[g, i].max())) for g in side]
        for i, side in zip((x, y), sides, strict=True)
    ]
    cells = [[np.intersect1d(row, column) for column in sides[0]] for row in sides[1]]

    def over(values: np.ndarray) -> np.ndarray:  # values (M,)
        return np.array([[values[at].mean() if at.size else np.nan for at in row] for row in cells])

    early = records.early
    return Map(
        records.names[x], records.names[y], spans[0], spans[1],
        np.array([[at.size for at in row] for row in cells]), over(records.by_task.mean(axis=0)),
        None if early is None else over(early.mean(axis=(0, 2))),
    )  # fmt: skip


def maps(records: Records, most: int) -> list[Map]:
    """Maps of pairs of dimensions, at most so many; those with the lowest mean return of a cell come first.

    A grid over more than two dimensions has lines through the median, and so no maps.
    """
    dims = len(records.names)
    pairs = [] if records.chosen == "grid" and dims > 2 else itertools.combinations(range(dims), 2)
    made = [map_of(records, x, y) for x, y in pairs]
    return sorted(made, key=lambda one: float(np.nanmin(one.mean)))[:most]


def iqms(records: Records) -> tuple[Interval, Interval]:
    """The interquartile mean, with the intervals of whole seeds and of rliable's stratified bootstrap."""
    by_task = records.by_task
    return resampled(iqm, by_task), resampled(iqm, by_task, by_task=True)


def settings(records: Records, worst: int = 5, most_maps: int = 3) -> list[Setting]:
    """The numbers of each swept setting.

    Args:
        records: the results.
        worst: number of worst tasks.
        most_maps: maximum number of maps of two dimensions.
    """
    common, prior = {*ALPHAS, *records.alpha}, records.chosen == "prior"
    found = []
    for label, where in places(records.seeds).items():
        own = only(records, where)
        found.append(
            Setting(
                label, own.alpha[0], [seed.seed for seed in own.seeds], len(own.tasks),
                levels(own, sorted(common)) if prior else [],
                bootstrap(own.by_task.mean(axis=1)), bootstrap(own.by_task.min(axis=1)), *iqms(own),
                ends(own), _seed_rows(own), own.column, _episodes(own),
                {name: _parts(own, i) for i, name in enumerate(own.names)},
                worst_tasks(own, worst), maps(own, most_maps),
            )
        )  # fmt: skip
    return found
