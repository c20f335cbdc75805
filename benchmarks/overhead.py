"""The cost of metrics and checkpoints, relative to training.

    python -m benchmarks.overhead [--env khazad_dum cheetah_mass] [--repeats 10] [--out FILE]

Measures, per environment and in one process: the time of a chunk of iterations; the time of writing its
metrics (to a file and to TensorBoard); and the time of a checkpoint. The last is the additional time of a
number of chunks while a checkpoint is written in the background, including the wait for its end. The share is
the time of the metrics per chunk plus that of a checkpoint every ten minutes (the default).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.config import seed_plan
from roml_jax.run import checkpoint, memory, progress, sharding, sinks


def measure(env: str, repeats: int, options: dict[str, Any]) -> dict[str, Any]:
    """Measures the costs on one environment, in seconds."""
    config = configs.make(env, "cem", **options)
    parts = experiment.make(config, placement=sharding.placement(config))
    state = jax.jit(parts.train.init)(*seed_plan.leaves(config.plan))
    program = jax.jit(parts.train.chunk, donate_argnums=0)
    n = jnp.int32(parts.train.chunk_length)

    def chunk() -> float:
        nonlocal state, rows
        began = time.perf_counter()
        state, rows = jax.block_until_ready(program(state, n))
        return time.perf_counter() - began

    rows: Any = None
    for _ in range(2):
        chunk()
    chunks = [chunk() for _ in range(repeats)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sink = sinks.make(["tensorboard"], folder, config.plan, configs.to_mapping(config), 0, print)
        logs = []
        for i in range(repeats):
            began = time.perf_counter()
            for row in progress.mean_over_rows(jax.device_get(rows)):
                sink.write(0, {"seed": 0, "iteration": i, "frames": i, "seconds": 0.0, **row})
            logs.append(time.perf_counter() - began)
        sink.close()
        writer = checkpoint.Checkpoints(folder / "checkpoint", print)
        saves, written = [], 0
        for i in range(max(3, repeats // 3)):
            began, chunk_time = time.perf_counter(), statistics.median(chunks)
            writer.save(i, {"state": state, "last": parts.learner.acting(state.learner)}, {})
            several = max(1, round(3 / chunk_time))
            for _ in range(several):
                chunk()
            written = writer.wait()
            saves.append(time.perf_counter() - began - several * chunk_time)
        assert written == len(saves) - 1, "a checkpoint failed"
        writer.close()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    chunk_s, log_s, save_s = (statistics.median(x) for x in (chunks, logs, saves))
    return {
        "env": env,
        "options": [f"{key}={value}" for key, value in options.items()],
        "chunk_s": round(chunk_s, 4),
        "metrics_s": round(log_s, 5),
        "checkpoint_s": round(save_s, 3),
        "state_mib": round(memory.size_of(state) / 2**20, 1),
        "on_disk_mib": round(size / 2**20, 1),
        "share": round(log_s / chunk_s + save_s / (60 * config.checkpoint_minutes), 5),
    }


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=["khazad_dum", "cheetah_mass"], help="environments")
    parser.add_argument("--repeats", type=int, default=10, help="chunks for the medians")
    parser.add_argument("--option", nargs="*", default=[], metavar="NAME=VALUE", help="training options")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    options = dict(option.split("=", 1) for option in args.option)
    results = [measure(env, args.repeats, options) for env in args.env]
    table = Table(
        "env", "chunk s", "metrics s", "checkpoint s", "state MiB", "on disk MiB", "share of the time"
    )
    for row in results:
        table.add_row(
            row["env"], f"{row['chunk_s']:.3f}", f"{row['metrics_s']:.4f}", f"{row['checkpoint_s']:.2f}",
            f"{row['state_mib']:,.0f}", f"{row['on_disk_mib']:,.0f}", f"{row['share']:.2%}",
        )  # fmt: skip
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine.describe(), "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
