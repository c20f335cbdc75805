"""Measures an accelerator in one command with a time limit.

    python -m benchmarks.accelerator --minutes 20 [--small] [--out benchmarks/results/accelerator.json]

Measures frames per second: first of the whole loop and of the bare physics at 1, 10, 30 and 90 seeds on every
engine, then of environments against the number of tasks. Each measurement runs in its own process. Results
are written after each measurement, the most important first, so that an interrupted run is still useful.
``--small`` runs the same measurements at a laptop's size, to check that the command works.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks import machine, throughput

_SECONDS_LEFT = 90  # least time left to start a measurement


class Job(NamedTuple):
    """One measurement: an environment, an engine, training options, and whether to run the whole loop."""

    env: str
    engine: str | None
    options: dict[str, str]
    whole: bool


def jobs(small: bool) -> list[Job]:
    """All measurements, the most important first."""
    engines = ("mujoco", "mjx") if small else ("mjx", "warp")
    seeds = (1, 2) if small else (1, 10, 30, 90)
    tasks = (16, 64) if small else (16, 256, 4096, 16_384, 65_536)
    buffer = {"vae.buffer_trajectories": "64", "chunk": "1"} if small else {"vae.buffer_trajectories": "2000"}
    planned = [
        Job("cheetah_mass", engine, {"seeds": f"0..{n - 1}", **buffer}, whole=True)
        for n, engine in itertools.product(seeds, engines)
    ]
    planned += [Job("khazad_dum", None, {"seeds": f"0..{n - 1}", **buffer}, whole=True) for n in seeds]
    planned += [
        Job("cheetah_mass", engine, throughput.of_tasks(n), whole=False)
        for n, engine in itertools.product(tasks, engines)
    ]
    if not small:
        planned += [
            Job("humanoid_mass", engine, throughput.of_tasks(4096), whole=False) for engine in engines
        ]
    return planned


def main(argv: list[str] | None = None) -> int:
    """Runs measurements until the time limit; returns 1 if a measurement failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=20,
        help="time limit in minutes; no measurement starts in the last 90 seconds",
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds for the medians")
    parser.add_argument("--small", action="store_true", help="use a laptop's sizes")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="where to write JSON")
    args = parser.parse_args(argv)
    console, end = Console(), time.monotonic() + 60 * args.minutes
    results: list[dict[str, Any]] = []
    planned = jobs(args.small)
    for i, job in enumerate(planned):
        left = end - time.monotonic()
        if left < _SECONDS_LEFT:
            console.print(f"time limit reached: {len(planned) - i} of {len(planned)} measurements not made")
            break
        options = [f"{name}={value}" for name, value in job.options.items()]
        options += [f"env.physics={job.engine}"] if job.engine else []
        console.print(f"[{i + 1}/{len(planned)}] {job.env} {' '.join(options)}", highlight=False)
        result = throughput.in_own_process(
            job.env, options, repeats=args.repeats, layers="all" if job.whole else "env", seconds=left
        )
        results.append(result or {"env": job.env, "options": job.options, "failed": True})
        if result:
            console.print(throughput.table(result))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine.describe(), "results": results}, indent=1) + "\n")
    return int(any("failed" in result for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
