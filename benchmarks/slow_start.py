"""Tests possible reasons why half-cheetahs initially learn more slowly than in the published curve.

    python -m benchmarks.slow_start [--variants base newest ...] [--seeds 10] [--first-seed 10]
    python -m benchmarks.slow_start --tables

Trains VariBAD on cheetah_vel with the paper's settings until iteration 160 (1e6 frames), where the published
curve is at -530, and as shipped until iteration 320, where it is at -353. Each variant changes one difference
between this implementation and the reference to the reference's choice.

Learners are tested on 256 velocities at even distances, whose mean is that of the prior, as that of the fresh
draws of the published curve is on average. The validation tasks of a run are one draw of 256, with a mean of
3.68 m/s instead of 3.50, on which a slow learner returns 38 less. Several processes of this command may run
at once: each takes groups that no other process works on, and skips groups that have a result.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks import machine
from benchmarks.reproduce import campaign, tables
from roml_jax import config, experiment, held_out, meta, risk, rollout
from roml_jax.agents import on_policy
from roml_jax.config import Config, seed_plan
from roml_jax.errors import unknown
from roml_jax.run import cli
from roml_jax.run.parser import Parser, positive, seed
from roml_jax.tasks import TaskFamily

_ROOT = Path(__file__).parent.parent
RESULTS = _ROOT / "benchmarks" / "results" / "slow_start"
_ITERATIONS, _BETWEEN_EVALUATIONS = 160, 25
_LONG = {"base": 320}  # iterations of variants that train for longer
_TASKS = 256  # that learners are tested on
_EVALUATED = 32  # tasks of each of the reference's evaluations
_GROUP = 2  # seeds per program, with one program per core
PUBLISHED = {160: -530.0, 320: -353.0}

# Options that are not the default, and the description for the table.
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "base": ({}, "as shipped"),
    "evaluations": ({}, "reward statistics also see evaluations, 12,800 greedy frames at the start and after "
                        "every 25 iterations"),
    "start": ({}, "statistics start with mean 0, variance 1 and count 1e-4"),
    "newest": ({"vae.draw_newest": False}, "the newest trajectories are not drawn before the replay is full"),
    "replay10000": ({"vae.buffer_trajectories": 10_000}, "a replay of 10,000 trajectories, not 1,000"),
}  # fmt: skip


def _config(variant: str, seeds: Sequence[int]) -> Config:
    options = {"vae.buffer_trajectories": 1000, **VARIANTS[variant][0]}
    frames = _LONG.get(variant, _ITERATIONS) * 16 * 400
    return config.make("cheetah_vel", "uniform", frames=frames, seeds=list(seeds), **options)


def _with_small_count(state: meta.MetaState) -> meta.MetaState:
    """Initial statistics that contain 1e-4 samples with mean 0 and variance 1."""
    small = jax.tree.map(
        lambda one: one.replace(summed_variance=jax.tree.map(lambda x: x + 1e-4, one.summed_variance)),
        state.learner.statistics,
        is_leaf=lambda x: hasattr(x, "summed_variance"),
    )
    return state._replace(learner=state.learner._replace(statistics=small))


def _watch(parts: experiment.Experiment, made: Config, learner: Any, key: jax.Array) -> Any:
    """The learner with reward statistics that include an evaluation of its greedy behaviour."""
    task_key, run_key = jax.random.split(key)
    drawn = parts.env.family.sample_prior(task_key, _EVALUATED)
    greedy = jnp.ones(made.protocol.agent_spec(parts.env.spec).episodes, bool)
    seen, _ = rollout.run_episodes(
        parts.agent, parts.env, made.protocol, learner, drawn, run_key, greedy=greedy
    )
    statistics, _ = on_policy.scaled_rewards(learner.statistics, seen, made.agent_options.ppo.gamma)
    return learner._replace(statistics=statistics)


def even_tasks(family: TaskFamily) -> held_out.Batch:
    """Tasks at even distances over a prior of one dimension that is uniform, as a test."""
    u = (np.arange(_TASKS, dtype=np.float32)[:, None] + 0.5) / _TASKS
    return held_out.whole(family.decode(jnp.asarray(u)), jax.random.key(20231110))


def measure(variant: str, seeds: Sequence[int], console: Console) -> dict[str, Any]:
    """Trains a group of seeds; mean and CVaR of each seed after every 40 iterations.

    "mean" and "cvar" are on the run's validation tasks, "even" and "even_cvar" on even ones (``even_tasks``).
    """
    chosen = _config(variant, seeds)
    parts, began = experiment.make(chosen), time.monotonic()
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    evaluate, test, tasks = jax.jit(parts.evaluate), jax.jit(parts.tested), even_tasks(parts.env.family)
    watch = jax.jit(jax.vmap(lambda learner, key: _watch(parts, chosen, learner, key)))
    state = jax.jit(parts.train.init)(*seed_plan.leaves(chosen.plan))
    if variant == "start":
        state = _with_small_count(state)
    result: dict[str, Any] = {"variant": variant, "seeds": list(seeds), "curve": []}
    last = _LONG.get(variant, _ITERATIONS)
    stops = sorted({*range(0, last, _BETWEEN_EVALUATIONS), *range(40, last + 1, 40)})
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        for at in range(start, stop, parts.train.chunk_length):
            state, _ = chunk(state, jnp.int32(min(parts.train.chunk_length, stop - at)))
        if variant == "evaluations" and stop % _BETWEEN_EVALUATIONS == 0:
            keys = jax.random.split(jax.random.key(stop), len(seeds))
            state = state._replace(learner=watch(state.learner, keys))
        if stop and stop % 40 == 0:
            row: dict[str, Any] = {"iteration": stop}
            tested = (
                ("mean", "cvar", evaluate(state.learner)),
                ("even", "even_cvar", test(state.learner, tasks)),
            )
            for mean, cvar, outcome in tested:
                by_task = np.asarray(outcome.returns).mean(axis=-1)
                row[mean] = by_task.mean(axis=1).tolist()
                row[cvar] = [float(risk.cvar(one, chosen.alpha)) for one in by_task]
            result["curve"].append(row)
            console.print(f"{variant} {list(seeds)} {stop}: {np.round(row['even'], 1)}", soft_wrap=True)
    return result | {"minutes": round((time.monotonic() - began) / 60, 1), "machine": machine.describe()}


def _is_measured(path: Path, variant: str) -> bool:
    """Whether a group has a result, on even tasks and until its last iteration."""
    if not path.exists():
        return False
    last = json.loads(path.read_text())["curve"][-1]
    return "even" in last and last["iteration"] >= _LONG.get(variant, _ITERATIONS)


def _pooled(variant: str, iteration: int = _ITERATIONS, what: str = "mean") -> dict[int, float]:
    """The return after an iteration, by seed."""
    by_seed = {}
    for path in sorted(RESULTS.glob(f"{variant}-*.json")):
        result = json.loads(path.read_text())
        for row in result["curve"]:
            if row["iteration"] == iteration and what in row:
                by_seed |= dict(zip(result["seeds"], row[what], strict=True))
    return by_seed


def table() -> str:
    """A row per variant: mean over seeds with standard error, and the paired difference from ``base``."""
    base, rows = _pooled("base"), []
    for name, (_, words) in VARIANTS.items():
        for iteration in (_ITERATIONS, _LONG.get(name)):
            values = _pooled(name, iteration) if iteration else {}
            if not values:
                continue
            even = _pooled(name, iteration, "even")
            both = sorted(values.keys() & base.keys()) if name != "base" else []
            rows.append([
                name, words, str(iteration), str(len(values)), f"{PUBLISHED[iteration]:.0f}",
                _with_error([*even.values()]), _with_error([*values.values()]),
                _with_error([values[one] - base[one] for one in both]),
            ])  # fmt: skip
    heads = [
        "variant", "difference", "iterations", "seeds", "published", "mean on even tasks",
        "mean on the validation tasks", "- base, paired",
    ]  # fmt: skip
    return tables.markdown(heads, rows)


def _with_error(values: Sequence[float]) -> str:
    """Mean and standard error; only the mean of a single value, "" of none."""
    if len(values) < 2:
        return f"{values[0]:.0f}" if values else ""
    return f"{np.mean(values):.0f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.0f}"


def command(argv: Sequence[str]) -> None:
    """Trains the groups without a result, or prints the table.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = Parser(
        prog="python -m benchmarks.slow_start", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), metavar="VARIANT",
        help=f"of {', '.join(VARIANTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive, default=10, help="seeds per variant (default: 10)")
    parser.add_argument("--first-seed", type=seed, default=10, help="first seed (default: 10)")
    parser.add_argument("--tables", action="store_true", help="do not train; make the table from the results")
    args = parser.parse_args(argv)
    for name in args.variants:
        if name not in VARIANTS:
            raise unknown("variant", name, VARIANTS)
    console = Console()
    if args.tables:
        text = table()
        console.print(text)
        tables.fill(_ROOT / "docs" / "results.md", "slow_start", text)
        return
    last = args.first_seed + args.seeds
    for start in range(args.first_seed, last, _GROUP):
        seeds = range(start, min(start + _GROUP, last))
        for name in args.variants:
            path = RESULTS / f"{name}-{seeds[0]}-{seeds[-1]}.json"
            with campaign.claimed(path) as is_claimed:
                if is_claimed and not _is_measured(path, name):
                    path.write_text(json.dumps(measure(name, seeds, console), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(command))
