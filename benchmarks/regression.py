"""Checks that this checkout is as fast as the committed figures, as ratios to a calibration.

    python -m benchmarks.regression [--results benchmarks/results/throughput-cpu.json] [--tolerance 0.75]

The machine's speed is that of a fixed workload (small matrix products and sorts in a compiled loop), measured
just before each measurement. The ratio of the whole loop's frames per second to it must be at least the
tolerance times the committed ratio. A measurement below that is repeated once, since disturbances only make
the loop slower. The exit code is 1 if it is still below.
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
    """A measurement.

    Attributes:
        ratio: calibrated speed divided by the committed one.
        speed: the machine's speed divided by that of the committed results' machine.
        frames_per_s: frames per second.
    """

    ratio: float
    speed: float
    frames_per_s: int


def _measure(entry: dict[str, Any], repeats: int, reference: float) -> _Found | None:
    """Measures a committed entry again; None if that failed."""
    speed = machine.calibrate() / reference
    now = throughput.in_own_process(entry["env"], entry["options"], repeats=repeats)
    if now is None:
        return None
    before, after = (x["layers"][_LAYER]["frames_per_s"] for x in (entry, now))
    return _Found(after / before / speed, speed, after)


def main(argv: list[str] | None = None) -> int:
    """Measures every entry of a committed file again; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="JSON file of the committed figures")
    parser.add_argument(
        "--tolerance", type=float, default=0.75, help="least accepted ratio to the committed one"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds for the medians")
    parser.add_argument("--env", nargs="+", help="measure these environments only")
    args = parser.parse_args(argv)
    committed = json.loads(args.results.read_text())
    if "calibration_per_s" not in committed["machine"]:
        parser.error(f"{args.results} has no calibration: make it again with benchmarks.throughput --out")
    reference = committed["machine"]["calibration_per_s"]
    console = Console()
    table, worst = Table("environment", "committed", "now", "machine", "now / committed"), 1.0
    for entry in committed["results"]:
        if _LAYER not in entry["layers"] or (args.env and entry["env"] not in args.env):
            continue
        now = _measure(entry, args.repeats, reference)
        if now is not None and now.ratio < args.tolerance:
            console.print(f"{entry['env']}: ratio {now.ratio:.2f} is below the tolerance, measuring again")
            now = max(now, _measure(entry, args.repeats, reference) or now)
        if now is None:
            console.print(f"{entry['env']}: the measurement failed")
            return 1
        worst = min(worst, now.ratio)
        before = entry["layers"][_LAYER]["frames_per_s"]
        table.add_row(
            entry["env"], f"{before:,}", f"{now.frames_per_s:,}", f"{now.speed:.2f}", f"{now.ratio:.2f}"
        )
    console.print(table)
    if worst < args.tolerance:
        console.print(f"slower than {args.tolerance:g} times the committed figures", style="red")
    return int(worst < args.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
