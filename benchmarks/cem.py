"""Times the cross-entropy method: compared with the PyPI package, and against its size.

    python -m benchmarks.cem [--repeats 7] [--out FILE]

A measurement is ``sample`` and ``update`` of one batch. ``roml_jax.cem`` is timed twice: called from the host
for each batch, and in a compiled loop over batches, as in training. It and the package are timed in turn in
the same process. Figures are medians; ratios are computed per pair of measurements.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from roml_jax import cem, proposals

ALPHA = 0.05
SIZES = (
    (128, 1), (1024, 1), (16_384, 1), (131_072, 1), (1_000_000, 1),
    (128, 8), (128, 64), (16_384, 64),
)  # fmt: skip


def our_batch(size: int, dims: int, batches: int = 1) -> Callable[[], None]:
    """``sample`` and ``update`` of ``batches`` batches in one compiled program; score = -sum(u)."""
    config, proposal = cem.CemConfig(batch_size=size, history=1), proposals.beta(dims)

    def batch(state: cem.CemState, key: jax.Array) -> tuple[cem.CemState, None]:
        draw_key, tie_key = jax.random.split(key)
        state, draw = cem.sample(config, proposal, state, draw_key, size)
        score = -draw.u.sum(axis=1)
        return cem.update(config, proposal, state, draw, score, tie_key, ALPHA)[0], None

    loop = jax.jit(lambda state, keys: jax.lax.scan(batch, state, keys)[0])
    keys = jax.random.split(jax.random.key(1), batches)
    held = [cem.init(config, proposal, jax.random.key(0))]

    def run() -> None:
        held[0] = jax.block_until_ready(loop(held[0], keys))

    run()
    return run


def package_batch(size: int) -> Callable[[], None]:
    """The same with the PyPI package's Beta family, in one dimension."""
    from cross_entropy_method.examples import CEM_Beta

    package = CEM_Beta(phi0=0.5, batch_size=size, ref_alpha=ALPHA)

    def run() -> None:
        for _ in range(size):
            x, _ = package.sample()
            package.update(-x)

    run()
    return run


def seconds(run: Callable[[], None]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def against_package(repeats: int, size: int = 128, batches: int = 200) -> dict[str, Any]:
    """Times a batch in one dimension, the three variants in turn; the compiled loop has ``batches``."""
    single, loop, theirs = our_batch(size, 1), our_batch(size, 1, batches), package_batch(size)
    rows = [
        (statistics.mean(seconds(single) for _ in range(20)), seconds(loop) / batches, seconds(theirs))
        for _ in range(repeats)
    ]
    median = statistics.median
    return {
        "ours_called_ms": round(1000 * median(a for a, _, _ in rows), 3),
        "ours_in_loop_ms": round(1000 * median(b for _, b, _ in rows), 4),
        "package_ms": round(1000 * median(c for _, _, c in rows), 3),
        "package_over_called": round(median(c / a for a, _, c in rows), 1),
        "package_over_loop": round(median(c / b for _, b, c in rows), 1),
    }


def growth(repeats: int, sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Times one batch for each number of tasks and dimensions."""
    rows = []
    for size, dims in sizes:
        run = our_batch(size, dims)
        median = statistics.median(seconds(run) for _ in range(repeats))
        rows.append(
            {
                "tasks": size,
                "dims": dims,
                "ms": round(1000 * median, 3),
                "ns_per_number": round(1e9 * median / size / dims, 1),
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Prints the tables, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="measurements for the medians")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    args = parser.parse_args(argv)
    pair, rows = against_package(args.repeats), growth(args.repeats)
    console = Console()
    console.print(
        f"batch of 128, one dimension: package {pair['package_ms']} ms; roml_jax.cem called from the host "
        f"{pair['ours_called_ms']} ms (1/{pair['package_over_called']}), in a compiled loop "
        f"{pair['ours_in_loop_ms']} ms (1/{pair['package_over_loop']})"
    )
    table = Table("tasks", "dimensions", "ms", "ns per number")
    for row in rows:
        table.add_row(
            f"{row['tasks']:,}", str(row["dims"]), f"{row['ms']:,.2f}", f"{row['ns_per_number']:,.0f}"
        )
    console.print(table)
    if args.out:
        result = {"machine": machine.describe(), "against_package": pair, "growth": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
