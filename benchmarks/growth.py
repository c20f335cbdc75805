"""Frames per second against the number of tasks, seeds and devices: a table and a figure.

    python -m benchmarks.growth [--out benchmarks/results/growth-cpu.json] [--figure docs/images/growth.png]
    python -m benchmarks.growth --plot benchmarks/results/growth-cpu.json --figure FILE

Tasks: the environment under random actions. Seeds: the whole loop, all seeds in one program. Devices: the
whole loop of eight seeds on forced host devices, which share this machine's cores, so the best possible
result is a constant speed. Each measurement runs in its own process. Measurements that --out already contains
are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from benchmarks import machine, throughput

mpl.use("Agg")
from matplotlib import pyplot as plt

_DEVICES = "--xla_force_host_platform_device_count="


class Series(NamedTuple):
    """Measurements of one environment along one axis.

    Attributes:
        axis: "tasks", "seeds" or "devices".
        env: name of the environment.
        sizes: numbers of tasks, seeds or devices.
        options: (size) -> training options.
        layer: name of a layer of ``benchmarks.throughput``.
    """

    axis: str
    env: str
    sizes: tuple[int, ...]
    options: Any
    layer: str


def _seeds(n: int) -> dict[str, str]:
    return {"seeds": f"0..{n - 1}", "vae.buffer_trajectories": "500"}


def _devices(n: int) -> dict[str, str]:
    return {**_seeds(8), "mesh": f"seed={n}" if n > 1 else "none"}


SERIES = (
    Series("tasks", "cheetah_mass", (16, 64, 256, 1024, 4096), throughput.of_tasks, "env"),
    Series("tasks", "khazad_dum", (16, 256, 4096, 65_536), throughput.of_tasks, "env"),
    Series("seeds", "khazad_dum", (1, 3, 10, 30, 90), _seeds, "whole iteration"),
    Series("seeds", "cheetah_mass", (1, 3, 10, 30), _seeds, "whole iteration"),
    Series("devices", "khazad_dum", (1, 2, 4, 8), _devices, "whole iteration"),
)


def measure(series: Series, size: int, repeats: int) -> dict[str, Any] | None:
    """Measures one point; None if it failed."""
    options = [f"{name}={value}" for name, value in series.options(size).items()]
    before = os.environ.get("XLA_FLAGS")
    if series.axis == "devices":
        os.environ["XLA_FLAGS"] = f"{_DEVICES}{size}"
    try:
        layers = "env" if series.layer == "env" else "all"
        result = throughput.in_own_process(series.env, options, repeats=repeats, layers=layers)
    finally:
        os.environ.pop("XLA_FLAGS", None)
        if before is not None:
            os.environ["XLA_FLAGS"] = before
    if result is None:
        return None
    row = result["layers"][series.layer]
    return {
        "axis": series.axis, "env": series.env, "size": size, "layer": series.layer,
        "frames_per_s": row["frames_per_s"], "frames_per_s_min_max": row["frames_per_s_min_max"],
        "peak_memory_gib": result["peak_memory_gib"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> Table:
    """A table of the results; a frame's cost is relative to that at the smallest size."""
    results = Table("axis", "env", "size", "layer", "frames/s", "cost of a frame", "peak GiB")
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        start = first.setdefault((row["axis"], row["env"]), row["frames_per_s"])
        results.add_row(
            row["axis"], row["env"], f"{row['size']:,}", row["layer"], f"{row['frames_per_s']:,}",
            f"{start / row['frames_per_s']:.2f}", f"{row['peak_memory_gib']:.1f}",
        )  # fmt: skip
    return results


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws a panel per axis: frames per second against size."""
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    colours = {env: f"C{i}" for i, env in enumerate(dict.fromkeys(row["env"] for row in rows))}
    figure, axes = plt.subplots(1, len(axes_names), figsize=(4 * len(axes_names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], axes_names, strict=True):
        for env in dict.fromkeys(row["env"] for row in rows if row["axis"] == name):
            points = [row for row in rows if row["axis"] == name and row["env"] == env]
            x, y = [p["size"] for p in points], [p["frames_per_s"] for p in points]
            low, high = zip(*(p["frames_per_s_min_max"] for p in points), strict=True)
            axis.plot(x, y, marker="o", markersize=4, color=colours[env])
            axis.fill_between(x, low, high, alpha=0.2, color=colours[env], linewidth=0)
            axis.annotate(
                env, (x[-1], max(high[-2:])), xytext=(0, 6), textcoords="offset points", ha="right",
                color=colours[env],
            )  # fmt: skip
        sizes = sorted({row["size"] for row in rows if row["axis"] == name})
        # the speed grows by orders of magnitude with tasks; with seeds and devices it should be constant
        axis.set(xscale="log", yscale="log" if name == "tasks" else "linear", xlabel=name)
        axis.set_title(f"{points[0]['layer']}, steps/s")
        if name != "tasks":
            axis.set_ylim(0, 1.2 * max(row["frames_per_s"] for row in rows if row["axis"] == name))
            axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        axis.minorticks_off()
        axis.margins(y=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def measure_all(axes: list[str], repeats: int, out: Path | None, console: Console) -> list[dict[str, Any]]:
    """Measures every point that ``out`` does not contain yet, and writes it there after each.

    Raises:
        SystemExit: if a measurement fails; the earlier ones are in ``out``.
    """
    earlier = json.loads(out.read_text()) if out and out.exists() else {"results": []}
    rows, described = earlier["results"], earlier.get("machine") or machine.describe()
    order = [(series.axis, series.env) for series in SERIES]
    done = {(row["axis"], row["env"], row["size"]) for row in rows}
    for series in SERIES:
        for size in series.sizes if series.axis in axes else ():
            if (series.axis, series.env, size) in done:
                continue
            row = measure(series, size, repeats)
            if row is None:
                raise SystemExit(f"{series.env} with {size} {series.axis} failed")
            rows.append(row)
            # a point that was missing is inserted at its place in the series
            rows.sort(key=lambda row: (order.index((row["axis"], row["env"])), row["size"]))
            if out:
                out.write_text(json.dumps({"machine": described, "results": rows}, indent=1) + "\n")
            console.print(f"{series.axis} {size:,}: {series.env} {row['frames_per_s']:,} steps/s")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table, writes JSON and draws the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds for the medians")
    parser.add_argument(
        "--axes", nargs="+", default=["tasks", "seeds", "devices"], help="axes to measure (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file for the results; its results are not measured again"
    )
    parser.add_argument("--plot", type=Path, help="JSON file of an earlier run to draw instead of measuring")
    parser.add_argument("--figure", type=Path, help="file for the figure")
    args = parser.parse_args(argv)
    console = Console()
    if args.plot:
        rows = json.loads(args.plot.read_text())["results"]
    else:
        rows = measure_all(args.axes, args.repeats, args.out, console)
    console.print(table(rows))
    if args.figure:
        plot(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
