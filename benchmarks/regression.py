"""Is this checkout as fast as the committed figures? Compared as ratios to a calibration in the same run.

    python -m benchmarks.regression [--results benchmarks/results/throughput-cpu.json] [--tolerance 0.75]

A machine's speed is taken as that of a fixed workload (small matrix products and sorts in a compiled
loop); the whole loop's frames per second, divided by it, must not fall below the tolerance times the
committed ratio. Exit code 1 where it does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine, throughput

_RESULTS = Path(__file__).parent / "results" / "throughput-cpu.json"
_LAYER = "whole iteration"


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
    speed = machine.calibrate() / committed["machine"]["calibration_per_s"]
    console, table, worst = Console(), Table("environment", "committed", "now", "now / committed"), 1.0
    for entry in committed["results"]:
        if _LAYER not in entry["layers"] or (args.env and entry["env"] not in args.env):
            continue
        now = throughput.in_own_process(entry["env"], entry["options"], repeats=args.repeats)
        if now is None:
            console.print(f"{entry['env']} failed")
            return 1
        before, after = (x["layers"][_LAYER]["frames_per_s"] for x in (entry, now))
        ratio = after / before / speed
        worst = min(worst, ratio)
        table.add_row(entry["env"], f"{before:,}", f"{after:,}", f"{ratio:.2f}")
    console.print(f"this machine at {speed:.2f} of the speed of the one that the figures come from")
    console.print(table)
    if worst < args.tolerance:
        console.print(f"slower than {args.tolerance:g} of the committed figures", style="red")
    return int(worst < args.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
