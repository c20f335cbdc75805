"""Is this checkout as fast as the committed figures? Compared as ratios to a calibration in the same run.

    python -m benchmarks.regression [--results benchmarks/results/throughput-cpu.json] [--tolerance 0.75]

A machine's speed is taken as that of a fixed workload (small matrix products and sorts in a compiled
loop) just before each measurement; the whole loop's frames per second, divided by it, must not fall
below the tolerance times the committed ratio. What does is measured once more, as a machine's bad minute
only ever makes it slower. Exit code 1 where it still does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import machine, throughput

_RESULTS = Path(__file__).parent / "results" / "throughput-cpu.json"
_LAYER = "whole iteration"


class _Found(NamedTuple):
    """A measurement: its ratio to the committed one, the machine's speed (committed is 1), frames/s."""

    ratio: float
    speed: float
    frames_per_s: int


def _measure(entry: dict[str, Any], repeats: int, reference: float) -> _Found | None:
    """A committed entry, measured again; None where that failed."""
    speed = machine.calibrate() / reference
    now = throughput.in_own_process(entry["env"], entry["options"], repeats=repeats)
    if now is None:
        return None
    before, after = (x["layers"][_LAYER]["frames_per_s"] for x in (entry, now))
    return _Found(after / before / speed, speed, after)


def main(argv: list[str] | None = None) -> int:
    """Measures every entry of a committed file again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="committed figures")
    parser.add_argument("--tolerance", type=float, default=0.75, help="least acceptable ratio of ratios")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that the medians are taken over")
    parser.add_argument("--env", nargs="+", help="only these environments")
    args = parser.parse_args(argv)
    committed = json.loads(args.results.read_text())
    if "calibration_per_s" not in committed["machine"]:
        parser.error(f"{args.results} knows no calibration: take it anew with benchmarks.throughput --out")
    reference = committed["machine"]["calibration_per_s"]
    console = Console()
    table, worst = Table("environment", "committed", "now", "machine", "now / committed"), 1.0
    for entry in committed["results"]:
        if _LAYER not in entry["layers"] or (args.env and entry["env"] not in args.env):
            continue
        found = _measure(entry, args.repeats, reference)
        if found is not None and found.ratio < args.tolerance:
            console.print(f"{entry['env']} at {found.ratio:.2f}: once more")
            found = max(found, _measure(entry, args.repeats, reference) or found)
        if found is None:
            console.print(f"{entry['env']} failed")
            return 1
        worst = min(worst, found.ratio)
        before = entry["layers"][_LAYER]["frames_per_s"]
        table.add_row(
            entry["env"], f"{before:,}", f"{found.frames_per_s:,}", f"{found.speed:.2f}", f"{found.ratio:.2f}"
        )
    console.print(table)
    if worst < args.tolerance:
        console.print(f"slower than {args.tolerance:g} of the committed figures", style="red")
    return int(worst < args.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
