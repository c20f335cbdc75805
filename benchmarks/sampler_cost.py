"""The cost of task samplers: one draw, weights and update, at several numbers of tasks.

    python -m benchmarks.sampler_cost [--tasks 16 32 256 4096] [--samplers cem plr ...] [--out FILE]

A sampler's time is the mean over several iterations in one program, with random returns, so that an update
that happens once per batch is spread over the batch's iterations. The whole iteration of khazad_dum with the
paper's 32 tasks is timed in turn with them; a sampler's share is at that size. Scoring passes (sfl) are left
out: they are rollouts, and their frames count. Figures are medians over rounds.
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
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from roml_jax import config, experiment, samplers
from roml_jax.config import seed_plan
from roml_jax.errors import unknown
from roml_jax.run import cli
from roml_jax.run.parser import Parser, positive
from roml_jax.types import Feedback

_ENV = "khazad_dum"
_TASKS = (16, 32, 256, 4096)
_ITERATIONS = {16: 50, 32: 50, 256: 20}  # in one program; 2 for larger numbers of tasks
_THRESHOLDS = {
    "doraemon": {"sampler.success": -0.5},
    "autodr": {"sampler.success": -0.5, "sampler.failure": -1.0},
}


def _timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def _loop(sampler: samplers.TaskSampler, n: int, length: int) -> Callable[[], Any]:
    """() -> the sampler's state after ``length`` iterations with n tasks and random feedback."""

    def iteration(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        draw_key, return_key, update_key = jax.random.split(key, 3)
        state, draw = sampler.sample(state, draw_key, n)
        episodes = jax.random.normal(return_key, (n, 3)) - draw.u[:, :1]
        returns = episodes.sum(axis=1)
        feedback = Feedback(returns, episodes, jnp.abs(returns), jnp.zeros(n, bool))
        weights = sampler.weights(state, draw, feedback, 0.5)
        state, _ = sampler.update(state, draw, feedback, update_key, 0.5)
        return state, weights.loss.sum()

    looped = jax.jit(lambda state, keys: jax.lax.scan(iteration, state, keys))
    state, keys = sampler.init(jax.random.key(0)), jax.random.split(jax.random.key(1), length)
    return lambda: looped(state, keys)


def _whole_iteration() -> tuple[Callable[[], Any], int]:
    """() -> a chunk of khazad_dum's iterations with uniform tasks, and its number of iterations."""
    chosen = config.make(_ENV, "uniform", frames=1e6)
    parts = experiment.make(chosen)
    chunk = jax.jit(parts.train.chunk)
    state = jax.jit(parts.train.init)(*seed_plan.leaves(chosen.plan))
    return lambda: chunk(state, jnp.int32(parts.train.chunk_length)), parts.train.chunk_length


def measure(names: Sequence[str], tasks: Sequence[int], repeats: int, console: Console) -> dict[str, Any]:
    """Milliseconds per iteration of every sampler at each number of tasks, and of khazad_dum's iteration."""
    loops: dict[tuple[str, int], tuple[Callable[[], Any], int]] = {
        ("whole iteration", 32): _whole_iteration()
    }
    family = experiment.make(config.make(_ENV, "uniform", frames=1e6)).env.family
    for name in names:
        options = config.make(_ENV, name, frames=1e6, **_THRESHOLDS.get(name, {}))
        sampler = samplers.make(name, family, options.alpha, options.sampler_options)
        for n in tasks:
            length = _ITERATIONS.get(n, 2)
            loops[name, n] = _loop(sampler, n, length), length
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in loops}
    for key, (run, _) in loops.items():
        with console.status(f"compiling {key[0]}, {key[1]} tasks ..."):
            jax.block_until_ready(run())
    for i in range(repeats):
        with console.status(f"round {i + 1} of {repeats} ..."):
            for key, (run, length) in loops.items():
                seconds[key].append(_timed(run) / length)
    milliseconds = {key: 1000 * statistics.median(each) for key, each in seconds.items()}
    return {
        "machine": machine.describe(),
        "whole_iteration_ms": round(milliseconds.pop(("whole iteration", 32)), 2),
        "samplers_ms": {name: {str(n): round(milliseconds[name, n], 4) for n in tasks} for name in names},
    }


def table(result: dict[str, Any]) -> Table:
    """A row per sampler: milliseconds at each number of tasks, and the share of khazad_dum's iteration."""
    whole = result["whole_iteration_ms"]
    sizes = list(next(iter(result["samplers_ms"].values())))
    rows = Table(title=f"ms per iteration; khazad_dum's whole iteration with 32 tasks takes {whole:.1f} ms")
    for heading in ("sampler", *(f"{n} tasks" for n in sizes), "share at 32"):
        rows.add_column(heading, justify="left" if heading == "sampler" else "right")
    for name, each in result["samplers_ms"].items():
        share = f"{each['32'] / whole:.1%}" if "32" in each else "-"
        rows.add_row(name, *(f"{each[n]:,.2f}" for n in sizes), share)
    return rows


def command(argv: Sequence[str]) -> None:
    """Measures, prints the table, writes JSON.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = Parser(
        prog="python -m benchmarks.sampler_cost", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    every = [name for name in samplers.names() if name != "oracle"]  # khazad_dum has no known hardest end
    parser.add_argument("--samplers", nargs="+", default=every, metavar="SAMPLER", help="default: all")
    parser.add_argument(
        "--tasks", nargs="+", type=positive, default=list(_TASKS), help="default: 16 32 256 4096"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    for name in args.samplers:
        if name not in every:
            raise unknown("sampler", name, every)
    console = Console()
    result = measure(args.samplers, args.tasks, args.repeats, console)
    console.print(table(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(command))
