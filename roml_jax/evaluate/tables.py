"""Console tables of the numbers in ``verdict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roml_jax import console as output
from roml_jax.evaluate.intervals import Interval, decimals
from roml_jax.evaluate.verdict import ONE_SEED, Ends, Hard, Map, Part, Setting


def new(title: str, *heads: str) -> Table:
    """An empty table; the first column is aligned to the left, all others to the right."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(escape(head), justify="right" if i else "left", no_wrap=True)
    return table


def span(low: float, high: float) -> str:
    """A range of a task's dimension as text."""
    return f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}"


def percent(share: float | None) -> str:
    """A share as text; "" if it is unknown."""
    return "" if share is None else f"{100 * share:.1f} %"


def in_percent(interval: Interval) -> str:
    """A share with its interval as text."""
    hundred = Interval(*(100 * x for x in interval[:3]), interval.n)
    return f"{hundred.text(1)} %"


def _over(setting: Setting) -> str:
    """Suffix of a table's title: the setting, the number of seeds, and the kind of interval."""
    of, seeds = f" ({setting.label})" if setting.label else "", len(setting.seeds)
    return f"{of}, mean over {seeds} seeds [95 % bootstrap]" if seeds > 1 else f"{of}, one seed: no interval"


def _digits(setting: Setting) -> int:
    return decimals([end for row in setting.by_seed for end in (row.worst_task, row.best_task)])


def _falls(setting: Setting) -> bool:
    """Whether any episode ended early."""
    return setting.ends is not None and bool(setting.ends.early.mean > 0)


def _risk_table(setting: Setting) -> Table:
    """CVaR and VaR at several risk levels. A task's return is the mean over its episodes."""
    digits = _digits(setting)
    table = new("Return by risk level" + _over(setting), "alpha", "CVaR", "VaR", "tasks in the tail")
    for level in setting.levels:
        note = " (the run's)" if level.alpha == setting.alpha else ""
        count = f"{level.tasks} of {setting.tasks}"
        table.add_row(f"{level.alpha:g}{note}", level.cvar.text(digits), level.var.text(digits), count)
    table.add_row("1 (mean)", setting.mean.text(digits), "", f"{setting.tasks} of {setting.tasks}")
    table.add_row("worst task", setting.worst_task.text(digits), "", f"1 of {setting.tasks}")
    return table


def _aggregate_table(setting: Setting) -> Table:
    """The interquartile mean with both intervals, early ends and episode length."""
    digits = _digits(setting)
    table = new("Aggregates" + _over(setting), "", "value")
    table.add_row("IQM over seeds and tasks", setting.iqm.text(digits))
    if len(setting.seeds) > 1:
        table.add_row("  with rliable's interval, seeds drawn by task", setting.iqm_by_task.text(digits))
    for row in _ends_rows(setting.ends):
        table.add_row(*row)
    return table


def _ends_rows(ends: Ends | None) -> Iterator[tuple[str, str]]:
    if ends is not None:
        yield "episodes that end early (fall rate)", in_percent(ends.early)
        yield "steps per episode", ends.length.text(1)


def _seeds_table(setting: Setting) -> Table:
    alpha, digits = setting.alpha, _digits(setting)
    heads = ("seed", "iterations", "mean", f"CVaR {alpha:g}", f"VaR {alpha:g}", "worst task", "diverged")
    acts = setting.ends is not None
    table = new("By seed", *heads, *(("ended early", "steps") if acts else ()))
    for row in setting.by_seed:
        numbers = (row.mean, row.cvar, row.var, row.worst_task)
        table.add_row(
            row.label, str(row.iterations), *(f"{number:.{digits}f}" for number in numbers),
            str(row.diverged_tasks), *((percent(row.early), f"{row.length:.1f}") if acts else ()),
        )  # fmt: skip
    return table


def _adaptation_table(setting: Setting) -> Table:
    """Mean and CVaR of the returns, separately for each episode or number of inner steps."""
    prior = bool(setting.levels)
    digits, falls = _digits(setting), _falls(setting)
    level = f"CVaR {setting.alpha:g}" + (" of that episode" if setting.column == "episode" else "")
    heads = [setting.column, "mean", *((level,) if prior else ())]
    table = new("Adaptation" + _over(setting), *heads, *(("ended early", "steps") if falls else ()))
    for row in setting.by_episode:
        cells = [str(row.episode), row.mean.text(digits)]
        cells += [] if row.cvar is None else [row.cvar.text(digits)]
        if falls and row.ends is not None:
            cells += [in_percent(row.ends.early), row.ends.length.text(1)]
        table.add_row(*cells)
    return table


def _tasks_table(setting: Setting, name: str, parts: Sequence[Part]) -> Table:
    """Return against one dimension of the task."""
    digits, falls = _digits(setting), _falls(setting)
    title = f"Return against {name}" + _over(setting)
    table = new(title, name, "tasks", "mean", "worst task", *(("ended early",) if falls else ()))
    for part in parts:
        table.add_row(
            span(part.low, part.high), str(part.tasks), part.mean.text(digits), part.worst_task.text(digits),
            *((percent(part.early),) if falls else ()),
        )  # fmt: skip
    return table


def hard_table(title: str, tasks: Sequence[Hard], digits: int, falls: bool, what: str = "return") -> Table:
    """A table of single tasks with their values, and their returns or differences of returns."""
    text = Interval.text if what == "return" else signed
    names = list(tasks[0].task) if tasks else []
    table = new(title, "task", *names, what, *(("ended early",) if falls else ()))
    for one in tasks:
        values = (f"{value:.3g}" for value in one.task.values())
        last = (percent(one.early),) if falls else ()
        table.add_row(f"number {one.number}", *values, text(one.returns, digits), *last)
    return table


def _map_table(setting: Setting, made: Map) -> Table:
    """Mean return over two dimensions: a column per group of the first, a row per group of the second."""
    digits = _digits(setting)
    table = new(
        f"Mean return (number of tasks) by {made.x} and {made.y}" + _over(setting).split(",")[0],
        f"{made.y} \\ {made.x}", *(span(*ends) for ends in made.columns),
    )  # fmt: skip
    for i, ends in enumerate(made.rows):
        cells = [
            f"{mean:.{digits}f} ({count})" if count else "-"
            for mean, count in zip(made.mean[i], made.tasks[i], strict=True)
        ]
        table.add_row(span(*ends), *cells)
    return table


def _sweep_table(found: Sequence[Setting]) -> Table:
    """All settings of a sweep at common risk levels."""
    alphas = [level.alpha for level in found[0].levels]
    digits = max(map(_digits, found))
    falls = any(map(_falls, found))
    table = new(
        f"The sweep at common risk levels, {found[0].tasks} tasks", "setting", "mean",
        *(f"CVaR {alpha:g}" for alpha in alphas), *(("ended early",) if falls else ()),
    )  # fmt: skip
    for setting in found:
        table.add_row(
            setting.label, f"{setting.mean.mean:.{digits}f}",
            *(f"{level.cvar.mean:.{digits}f}" for level in setting.levels),
            *((percent(float(setting.ends.early.mean)),) if falls and setting.ends else ()),
        )  # fmt: skip
    return table


def show(console: Console, found: Sequence[Setting]) -> None:
    """Prints all tables. A grid has no CVaR and VaR, because its tasks are not drawn from the prior."""
    for setting in found:
        if setting.levels:
            output.show_table(console, _risk_table(setting))
            output.show_table(console, _aggregate_table(setting))
            output.show_table(console, _seeds_table(setting))
        output.show_table(console, _adaptation_table(setting))
        for name, parts in setting.by_dimension.items():
            output.show_table(console, _tasks_table(setting, name, parts))
        for made in setting.maps:
            output.show_table(console, _map_table(setting, made))
        if setting.worst_tasks:
            title = "The worst tasks" + _over(setting)
            output.show_table(
                console, hard_table(title, setting.worst_tasks, _digits(setting), _falls(setting))
            )
        if len(setting.seeds) == 1:
            output.say(console, ONE_SEED, style="yellow")
    if len(found) > 1 and found[0].levels:
        output.show_table(console, _sweep_table(found))


def signed(interval: Interval, digits: int) -> str:
    """A difference with its interval as text, with a sign."""
    ends = "" if interval.n < 2 else f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return f"{interval.mean:+.{digits}f}{ends}" if np.isfinite(interval.mean) else ""
