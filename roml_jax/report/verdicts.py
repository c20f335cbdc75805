"""The report's sections of the verdict: common risk levels, early ends, differences by task, worst tasks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from roml_jax.evaluate import versus
from roml_jax.evaluate.intervals import decimals
from roml_jax.evaluate.records import Records
from roml_jax.evaluate.tables import in_percent, percent
from roml_jax.evaluate.verdict import ONE_SEED, ends, hard, iqms, levels, map_of, maps, worst_tasks
from roml_jax.evaluate.versus import Versus
from roml_jax.report import figures, page, series
from roml_jax.report.data import Group
from roml_jax.report.page import Section

_WORST = 5  # tasks listed for each method
_MAPS = 3  # pairs of dimensions


def _compared(group: Group, records: Mapping[str, Records]) -> dict[str, Versus]:
    """Each method against the baseline, by its label, on the tasks that all were tested on."""
    against = page.baseline(group)
    if against is None or against.label not in records:
        return {}
    base = records[against.label]
    return {
        label: versus.compare(own, base, (label, against.label), count=_WORST)
        for label, own in records.items()
        if label != against.label
    }


def _table(group: Group, records: Mapping[str, Records], compared: Mapping[str, Versus]) -> str:
    """Table of the methods: IQM, CVaR at the risk levels of all methods, early ends and improvement."""
    alphas = {method.alpha for method in group.methods}
    tasks = len(next(iter(records.values())).tasks)
    acts = any(own.length is not None for own in records.values())
    first = next(iter(records.values()))
    heads = ["method", "seeds", "IQM"]
    heads += [f"CVaR {row.alpha:g} ({row.tasks} of {tasks} tasks)" for row in levels(first, list(alphas))]
    heads += ["end early", "steps"] if acts else []
    heads += ["probability of improvement"] if compared else []
    rows = []
    for label, own in records.items():
        digits, found = decimals(own.by_task), ends(own)
        cells = [label, str(len(own.seeds)), iqms(own)[0].text(digits)]
        cells += [row.cvar.text(digits) for row in levels(own, list(alphas))]
        if acts:
            cells += ["", ""] if found is None else [in_percent(found.early), found.length.text(1)]
        if compared:
            other = compared.get(label)
            cells.append("" if other is None or min(other.seeds) < 2 else in_percent(other.probability))
        rows.append(cells)
    return page.table(heads, rows)


def _worst_table(records: Mapping[str, Records]) -> str:
    """Table of each method's worst tasks, with the returns of all methods on them."""
    names = next(iter(records.values())).names
    heads = ["worst tasks of", "task", *names, *(f"return of {label}" for label in records), "end early"]
    rows = []
    for label, own in records.items():
        for one in worst_tasks(own, _WORST):
            values = [f"{value:.3g}" for value in one.task.values()]
            others = (hard(other, [one.number])[0].returns for other in records.values())
            returns = [f"{found.mean:.{decimals(own.by_task)}f}" for found in others]
            rows.append([label, str(one.number), *values, *returns, percent(one.early)])
    return page.table(heads, rows)


def _maps(group: Group, records: Mapping[str, Records]) -> Section | None:
    """The maps of two dimensions; None for tasks of one dimension."""
    first = next(iter(records.values()))
    pairs = [(first.names.index(one.x), first.names.index(one.y)) for one in maps(first, _MAPS)]
    if not pairs:
        return None
    found = {label: [map_of(own, x, y) for x, y in pairs] for label, own in records.items()}
    words = (
        "Mean return of the tasks in each cell, over seeds and episodes. The groups of a dimension have "
        "about equally many tasks. Colours of one column of panels have the same scale."
    )
    count = len(list(itertools.combinations(first.names, 2)))
    if count > len(pairs):
        words += f" {len(pairs)} of {count} pairs, those with the lowest cells of the first method."
    return Section("Two dimensions of the task", words, figures.maps(found), "maps")


def sections(group: Group, records: Mapping[str, Records]) -> list[Section]:
    """The sections of the verdict.

    Args:
        group: the methods on an environment.
        records: returns of the last learners, all on the same tasks, by the method's label.
    """
    if not records:
        return []
    compared = _compared(group, records)
    words = (
        "The last learners, on the same held-out tasks. IQM is the mean over seeds and tasks without the "
        "lowest and the highest quarter. Episodes end early where the environment says so, such as at a fall."
    )
    against = page.baseline(group)
    if compared and against is not None:
        words += (
            f" The probability of improvement is that of a seed of the method against a seed of "
            f"{against.label}, averaged over tasks."
        )
    single = [label for label, own in records.items() if len(own.seeds) == 1]
    if single:
        words += f" One seed: {', '.join(single)}. {ONE_SEED}"
    parts = [Section("Verdict", words, table=_table(group, records, compared))]
    several = {label: one.by_task for label, one in compared.items() if min(one.seeds) > 1}
    if several and against is not None:
        words = (
            f"Each dot is a task: the return minus that of {against.label} on the same task, averaged over "
            "seeds. Lines are means over tenths of the tasks."
        )
        family = series.environment(group.methods[0]).family
        tasks = records[against.label].tasks
        figure = figures.differences(group, several, tasks, family, against.label)
        parts.append(Section("Differences by task", words, figure, "differences"))
    made = _maps(group, records)
    parts += [] if made is None else [made]
    words = "The tasks with the lowest returns of each method, averaged over seeds and episodes."
    parts.append(Section("Worst tasks", words, table=_worst_table(records)))
    return parts
