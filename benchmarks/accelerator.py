"""Measures an accelerator in one command with a time limit.

    python -m benchmarks.accelerator --minutes 20 [--small] [--out benchmarks/results/accelerator.json]
    python -m benchmarks.accelerator --minutes 8 --compile-first 8 --engines mjx

First the whole iteration of one seed and of thirty, whose time was predicted from the number of kernels that
XLA launches (``PREDICTED``); then environments and the bare physics against the number of tasks; then ninety
seeds. Each measurement runs in its own process. Results are written after each measurement, so that an
interrupted run is still useful.

``--compile-first N`` compiles the first N programs at the same time, each in its own process, into JAX's
compile cache before anything is timed: compiling takes most of the time, and needs processors, not the
accelerator. ``--small`` runs the same measurements at a laptop's size, to check that the command works.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import machine, throughput

_SECONDS_LEFT = 45  # least time left to start a measurement

# Milliseconds of one iteration on an H100, from the kernels of the compiled program at 2 to 4 us a launch:
# 10,700 kernels for khazad_dum; for the half-cheetah on MJX 551,000 with one solver iteration a substep, 1.1
# million with two. The count does not depend on the number of seeds.
PREDICTED = {("khazad_dum", None): (20.0, 40.0), ("cheetah_mass", "mjx"): (1000.0, 4000.0)}


class Job(NamedTuple):
    """One measurement: an environment, an engine, training options, and the layers to time."""

    env: str
    engine: str | None
    options: dict[str, str]
    layers: throughput.Which

    @property
    def arguments(self) -> list[str]:
        """Training options as NAME=VALUE."""
        options = [f"{name}={value}" for name, value in self.options.items()]
        return options + ([f"env.physics={self.engine}"] if self.engine else [])


def jobs(small: bool, engines: Sequence[str] = ()) -> list[Job]:
    """All measurements, the most important first; ``engines`` selects some."""
    compared = ("mujoco", "mjx") if small else ("mjx", "warp")
    seeds = (1, 2) if small else (1, 30, 90)
    tasks = (16, 64) if small else (256, 4096, 16, 16_384, 65_536)
    buffer = {"vae.buffer_trajectories": "64"} if small else {"vae.buffer_trajectories": "2000"}

    def loops(n: int) -> list[Job]:
        options = {"seeds": f"0..{n - 1}", "chunk": "1", **buffer}
        return [Job("khazad_dum", None, options | {"chunk": "5"}, "iteration")] + [
            Job("cheetah_mass", engine, options, "iteration") for engine in compared
        ]

    alone = [
        Job(env, engine, throughput.of_tasks(n), "env")
        for env, sizes in (("cheetah_mass", tasks), ("humanoid_mass", () if small else (4096,)))
        for n, engine in itertools.product(sizes, compared)
    ]
    planned = [*loops(seeds[0]), *loops(seeds[1]), *alone, *itertools.chain(*map(loops, seeds[2:]))]
    return [job for job in planned if not engines or job.engine is None or job.engine in engines]


def compile_all(planned: Sequence[Job]) -> None:
    """Runs every job once, all at the same time, so that its programs are in the compile cache."""
    with ThreadPoolExecutor(len(planned)) as pool:
        list(
            pool.map(
                lambda job: throughput.in_own_process(job.env, job.arguments, repeats=1, layers=job.layers),
                planned,
            )
        )


def comparison(results: Sequence[dict[str, Any]]) -> Table:
    """The whole iterations: measured and predicted milliseconds, and frames/s."""
    table = Table(title="whole iteration")
    for heading in ("environment", "engine", "seeds", "measured ms", "predicted ms", "frames/s"):
        table.add_column(heading, justify="left" if heading in ("environment", "engine") else "right")
    for result in results:
        row = result.get("layers", {}).get("whole iteration")
        if row is None:
            continue
        low_high = result.get("predicted_ms")
        predicted = f"{low_high[0]:,.0f} to {low_high[1]:,.0f}" if low_high else "-"
        measured = f"{result['iteration_ms']:,.1f}"
        table.add_row(
            result["env"], result["physics"] or "-", str(result["runs"]), measured, predicted,
            f"{row['frames_per_s']:,}",
        )  # fmt: skip
    return table


def _measured(job: Job, repeats: int, seconds: float) -> dict[str, Any]:
    """The result of one job, with the prediction beside it; ``failed`` if it failed."""
    result = throughput.in_own_process(
        job.env, job.arguments, repeats=repeats, layers=job.layers, seconds=seconds
    )
    if result is None:
        return {"env": job.env, "options": job.arguments, "failed": True}
    if job.layers == "iteration":
        row = result["layers"]["whole iteration"]
        frames = result["runs"] * result["frames_per_iteration"]
        result["iteration_ms"] = round(1000 * frames / row["frames_per_s"], 3)
        result["predicted_ms"] = PREDICTED.get((job.env, job.engine))
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs measurements until the time limit; returns 1 if a measurement failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20, help="time limit in minutes")
    parser.add_argument("--repeats", type=int, default=3, help="rounds for the medians")
    parser.add_argument("--small", action="store_true", help="use a laptop's sizes")
    parser.add_argument(
        "--compile-first", type=int, default=0, metavar="N", help="compile N programs at the same time first"
    )
    parser.add_argument("--engines", nargs="*", default=[], help="only these engines")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="where to write JSON")
    args = parser.parse_args(argv)
    console, end = Console(), time.monotonic() + 60 * args.minutes
    results: list[dict[str, Any]] = []
    planned = jobs(args.small, args.engines)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the device
    described = machine.describe()
    if args.compile_first:
        cache = Path(tempfile.gettempdir()) / "roml_jax_compiled"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
        start = time.monotonic()
        compile_all(planned[: args.compile_first])
        console.print(f"compiled in {time.monotonic() - start:.0f} s")
    for i, job in enumerate(planned):
        left = end - time.monotonic()
        if left < _SECONDS_LEFT:
            console.print(f"time limit reached: {len(planned) - i} of {len(planned)} measurements not made")
            break
        console.print(f"[{i + 1}/{len(planned)}] {job.env} {' '.join(job.arguments)}", highlight=False)
        results.append(_measured(job, args.repeats, left))
        if "failed" not in results[-1]:
            console.print(throughput.table(results[-1]))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": described, "results": results}, indent=1) + "\n")
    console.print(comparison(results))
    return int(any("failed" in result for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
