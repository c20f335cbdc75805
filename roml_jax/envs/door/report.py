"""What the check of an environment found, as data and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from roml_jax import console as output

Level = Literal["error", "warning", "note"]
_ORDER: tuple[Level, ...] = ("error", "warning", "note")


class Finding(NamedTuple):
    """One line about an environment.

    Attributes:
        level: "error" if the environment does not do what its tasks say, "warning" if it may not, "note" for
            what could not be observed.
        text: the line.
    """

    level: Level
    text: str


class Row(NamedTuple):
    """One end of a task dimension.

    Attributes:
        dimension: its name, or what else the task is.
        end: with the task's number.
        moved: the largest change against the unedited model, by name (qpos, qvel, obs, reward), after
            the episode's control steps; empty if nothing was run.
        difference: the largest difference between the environment's engine and plain MuJoCo in qvel after
            one control step (m/s, rad/s); None if it was not compared.
        ended: the share of episodes that ended early.
        diverged: the share of episodes that blew up.
    """

    dimension: str
    end: str
    moved: Mapping[str, float]
    difference: float | None
    ended: float
    diverged: float


class Part(NamedTuple):
    """A part of the observation: its range over all tasks and states, and whether a number is not finite."""

    name: str
    low: float
    high: float
    finite: bool


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        name: of the environment.
        engine: whose steps were run; empty for an environment without a physics engine.
        findings: errors first.
        rows: one per end of each dimension, and per corner.
        parts: of the observation.
        states: how many states each task was stepped from.
        touching: how many of these have contacts.
    """

    name: str
    engine: str
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...] = ()
    parts: tuple[Part, ...] = ()
    states: int = 0
    touching: int = 0

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return not self.of("error")

    def of(self, level: Level) -> tuple[str, ...]:
        """The lines of one level."""
        return tuple(finding.text for finding in self.findings if finding.level == level)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; each line once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: _ORDER.index(finding.level)))


def show(console: Console, report: Report) -> None:
    """Prints the tables and the findings."""
    engine = f" on {report.engine!r}" if report.engine else ""
    console.print(Text(f"{report.name}{engine}", style="bold"))
    if report.states:
        contacts = f", {report.touching} with contacts" if report.engine else ""
        console.print(
            f"every task is stepped from {report.states} states{contacts}; "
            "changes are against the unedited model"
        )
    if report.rows:
        output.show_table(console, _rows(report))
        output.show_table(console, _parts(report))
    for finding in report.findings:
        console.print(Text(f"{finding.level}: {finding.text}"))
    count = len(report.of("error"))
    console.print("passed" if report.passed else f"failed: {count} error{'s' if count > 1 else ''}")


def _rows(report: Report) -> Table:
    moved = list(dict.fromkeys(name for row in report.rows for name in row.moved))
    compared = any(row.difference is not None for row in report.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("task", overflow="fold")
    table.add_column("end", no_wrap=True)
    heads = [*moved, *(["engines"] if compared else []), "ended", "NaN"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    before = ""
    for row in report.rows:
        name, before = ("" if row.dimension == before else row.dimension), row.dimension
        numbers = [_number(row.moved.get(what)) for what in moved]
        numbers += [_number(row.difference)] if compared else []
        shares = [f"{share:.0%}" if share else "0" for share in (row.ended, row.diverged)]
        table.add_row(*map(Text, (name, row.end, *numbers, *shares)))
    return table


def _parts(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("observation", overflow="fold")
    for head in ("lowest", "highest", "NaN"):
        table.add_column(head, justify="right", no_wrap=True)
    for part in report.parts:
        ends = _number(part.low), _number(part.high)
        table.add_row(*map(Text, (part.name, *ends, "no" if part.finite else "yes")))
    return table


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.2g}" if abs(x) < 100 else f"{x:.0f}" if abs(x) < 1e5 else f"{x:.1e}"
