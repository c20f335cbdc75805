"""How close the parts of an iteration come to what this machine can do.

    python -m benchmarks.limits [--env khazad_dum cheetah_mass humanoid_mass] [--repeats 5] [--out FILE]

A part's work is counted in its program: floating-point operations of matrix products, and steps of the
physics engine. The machine's ceilings are measured: the best speed of a large matrix product, and that of the
C engine alone at the best of several batch sizes. A part that ran at its ceilings would take ``limit ms``;
``share`` is that over the time that it takes. What a derivative computes again counts as work. Element-wise
operations are counted, too, but have no price: their ceiling is the memory's, which depends on XLA's fusions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import bare, machine, throughput
from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.config import seed_plan
from roml_jax.envs import TaskEnv

ENVS = ("khazad_dum", "cheetah_mass", "humanoid_mass")
PARTS = ("rollout", "ppo", "vae")
BATCHES = (16, 64, 256)
MATRICES = (512, 1024, 2048)
_NO_ARITHMETIC = frozenset((
    "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice", "dynamic_update_slice",
    "concatenate", "gather", "scatter", "squeeze", "expand_dims", "convert_element_type", "iota", "copy",
    "rev", "pad", "select_n", "stop_gradient", "bitcast_convert_type", "split",
))  # fmt: skip


class Work(NamedTuple):
    """Floating-point operations: of matrix products, and of all other operations on floats."""

    products: float
    others: float

    def plus(self, other: Work, times: float = 1) -> Work:
        """This work and so many times another."""
        return Work(self.products + times * other.products, self.others + times * other.others)


def _inner(eqn: Any) -> Iterator[Any]:
    """The programs that an equation holds."""
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "eqns"):
                yield part
            elif hasattr(part, "jaxpr") and hasattr(part.jaxpr, "eqns"):
                yield part.jaxpr


def count(jaxpr: Any) -> Work:
    """The work of a jaxpr; a scan's body counts as often as it runs, a branch as the dearest one.

    Raises:
        ValueError: for a loop whose number of turns is not in the program.
    """
    total = Work(0.0, 0.0)
    for eqn in jaxpr.eqns:
        if not eqn.outvars:
            continue
        name, out = eqn.primitive.name, eqn.outvars[0].aval
        inner = [count(part) for part in _inner(eqn)]
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total = total.plus(Work(2.0 * out.size * depth, 0.0))
        elif name == "scan":
            total = total.plus(inner[0], eqn.params["length"])
        elif name == "cond":
            total = total.plus(max(inner))
        elif name == "while" and any(work.products for work in inner):
            raise ValueError(
                "a loop of matrix products runs for a number of turns that the program does not say"
            )
        elif inner:
            for work in inner:
                total = total.plus(work)
        elif name not in _NO_ARITHMETIC and getattr(out, "dtype", None) == jnp.float32:
            size = max(out.size, max((v.aval.size for v in eqn.invars if hasattr(v.aval, "size")), default=0))
            total = total.plus(Work(0.0, float(size if name.startswith("reduce") else out.size)))
    return total


def product_ceiling(repeats: int) -> float:
    """The best speed of a product of square float32 matrices, in operations per second."""

    def speed(n: int) -> float:
        a, product = jax.random.normal(jax.random.key(0), (n, n)), jax.jit(lambda a: a @ a)
        return 2.0 * n**3 / machine.median_seconds(lambda: jax.block_until_ready(product(a)), repeats)

    return max(map(speed, MATRICES))


def physics_ceiling(env_name: str, repeats: int) -> float | None:
    """The best speed of the bare C engine over batch sizes, in control steps per second; None without one."""
    best = None
    for n in BATCHES:
        config = configs.make(env_name, "cem", "varibad", **throughput.of_tasks(n))
        env = experiment.make_env(config)
        if not isinstance(env, TaskEnv):
            return None
        keys = jax.random.split(jax.random.key(2), 50)
        state = bare.start(env, env.family.sample_prior(jax.random.key(1), n))
        speed = n * len(keys) / machine.median_seconds(bare.physics_loop(env, state, keys), repeats)
        best = max(best or 0.0, speed)
    return best


def measure(env_name: str, repeats: int, products_per_s: float) -> list[dict[str, Any]]:
    """Rows of an environment's parts: work, time, and the share of the limit."""
    steps_per_s = physics_ceiling(env_name, repeats)
    config = configs.make(env_name, "cem", "varibad", learning_starts=0)
    parts = experiment.make(config)
    tasks = parts.env.family.sample_prior(jax.random.key(1), config.num_tasks)
    state = jax.jit(parts.train.init)(*seed_plan.leaves(config.plan))
    rows = []
    for layer in throughput.learner_layers(parts, config, state, tasks):
        if layer.name not in PARTS or layer.trace is None:
            continue
        work = count(layer.trace().jaxpr)
        physics = layer.frames if layer.name == "rollout" and steps_per_s else 0
        limit = work.products / products_per_s + (physics / steps_per_s if steps_per_s else 0)
        seconds = machine.median_seconds(layer.run, repeats)
        rows.append({
            "env": env_name, "part": layer.name, "gflop_products": round(work.products / 1e9, 3),
            "gflop_others": round(work.others / 1e9, 3), "physics_steps": physics,
            "ms": round(1e3 * seconds, 2), "limit_ms": round(1e3 * limit, 2),
            "share": round(limit / seconds, 3),
            "engine_steps_per_s": round(steps_per_s) if steps_per_s else None,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]], products_per_s: float) -> Table:
    """The rows, as printed."""
    shown = Table(title=f"ceiling of matrix products: {products_per_s / 1e9:,.0f} GFLOP/s")
    for heading in (
        "environment",
        "part",
        "GFLOP",
        "other GFLOP",
        "physics steps",
        "ms",
        "limit ms",
        "share",
    ):
        shown.add_column(heading, justify="left" if heading in ("environment", "part") else "right")
    for row in rows:
        shown.add_row(
            row["env"], row["part"], f"{row['gflop_products']:.2f}", f"{row['gflop_others']:.2f}",
            f"{row['physics_steps']:,}", f"{row['ms']:,.1f}", f"{row['limit_ms']:,.1f}",
            f"{row['share']:.0%}",
        )  # fmt: skip
    return shown


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a table, writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=list(ENVS), help="environments to measure")
    parser.add_argument("--repeats", type=int, default=5, help="rounds for the medians")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    try:
        for env in args.env:
            configs.make(env)
    except configs.ConfigError as error:
        parser.error(str(error))
    machine.keep_memory()
    console, products_per_s = Console(), product_ceiling(args.repeats)
    rows = []
    for env in args.env:
        with console.status(f"measuring {env} ..."):
            rows += measure(env, args.repeats, products_per_s)
    console.print(table(rows, products_per_s))
    if args.out:
        found = {"machine": machine.describe(), "products_per_s": round(products_per_s), "results": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
