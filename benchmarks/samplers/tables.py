"""The comparison's tables, in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from benchmarks.reproduce.tables import markdown
from benchmarks.samplers import protocol, summary
from benchmarks.samplers.training import Result
from roml_jax.evaluate.intervals import Interval, decimals


def _excludes_zero(gain: Interval) -> bool:
    return bool(gain.low > 0 or gain.high < 0)


def _signed(gain: Interval, digits: int) -> str:
    """A difference with its interval; bold if the interval does not contain zero."""
    text = f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"
    return f"**{text}**" if _excludes_zero(gain) else text


def bed_table(bed: protocol.Bed, results: Mapping[str, Result], refused: Mapping[str, str]) -> str:
    """All figures of a bed: a row per sampler, the highest CVaR first."""
    rows = sorted(summary.rows(results, bed.baselines), key=lambda row: -row.cvar.mean)
    if not rows:
        return ""
    alpha = next(iter(results.values())).about["alpha"]
    digits = decimals([row.cvar.mean for row in rows])
    heads = [
        "`--sampler`", "mean", *(f"CVaR {level:g}" for level in protocol.LEVELS), "worst task",
        *(f"CVaR {alpha:g} - `{base}`" for base in bed.baselines),
        *(f"mean - `{base}`" for base in bed.baselines), f"P(CVaR above `{bed.baselines[0]}`)",
    ]  # fmt: skip
    lines = []
    for row in rows:
        gains = [
            _signed(of[base], digits) if base in of else "-"
            for of in (row.cvar_gain, row.mean_gain)
            for base in bed.baselines
        ]
        lines.append([
            f"`{row.sampler}`", row.mean.text(digits),
            *(f"{level.mean:.{digits}f}" for level in row.levels), f"{row.worst.mean:.{digits}f}", *gains,
            "-" if row.improves is None else row.improves.text(2),
        ])  # fmt: skip
    text = markdown(heads, lines)
    for name, reason in refused.items():
        text += "\n\n" + textwrap.fill(f"`{name}` is refused here: {reason}", 110)
    return text


def lead_table(beds: Mapping[str, protocol.Bed], results: Mapping[str, Mapping[str, Result]]) -> str:
    """One row per sampler: average ranks, and on each bed the difference from ``uniform`` in CVaR."""
    order = summary.ranks(results, "cvar")
    on_mean = summary.ranks(results, "mean")
    by_bed = {
        bed: {row.sampler: row for row in summary.rows(one, beds[bed].baselines)}
        for bed, one in results.items()
    }
    names = [name for name in protocol.OPTIONS if any(name in rows for rows in by_bed.values())]
    names.sort(key=lambda name: order[name].mean if name in order else float("inf"))
    heads = ["`--sampler`", "rank in CVaR", "rank in mean"]
    heads += [f"{beds[bed].title}: CVaR" for bed in by_bed]
    lines = []
    for name in names:
        cells = [f"`{name}`", *(of[name].text(1) if name in of else "-" for of in (order, on_mean))]
        for rows in by_bed.values():
            digits = decimals([row.cvar.mean for row in rows.values()])
            row = rows.get(name)
            if row is None:
                cells.append("-")
            elif "uniform" in row.cvar_gain and _excludes_zero(row.cvar_gain["uniform"]):
                better = row.cvar_gain["uniform"].low > 0
                cells.append(f"{row.cvar.mean:.{digits}f} ({'better' if better else 'worse'})")
            else:
                cells.append(f"{row.cvar.mean:.{digits}f}")
        lines.append(cells)
    return markdown(heads, lines)


def all_tables(
    beds: Mapping[str, protocol.Bed], results: Mapping[str, Mapping[str, Result]],
    refused: Mapping[str, Mapping[str, str]],
) -> Sequence[tuple[str, str]]:  # fmt: skip
    """(name, text) of every table: "lead", then one per bed."""
    rivals = summary.rivals(results)
    tables = [("lead", lead_table(beds, rivals))] if rivals else []
    for bed, one in results.items():
        tables.append((bed, bed_table(beds[bed], one, refused[bed])))
    return tables
