"""Robust sine regression: compares RoML-MAML with MAML and CVaR-ML, after one and four gradient steps.

    python -m benchmarks.sine [--seeds 5] [--out benchmarks/results/sine.json]

Every method trains for the paper's 10,000 iterations, all its seeds in one program. As in the reference, the
tested model is the best of the validations every 2,000 iterations, on 100 tasks, by the loss after one step:
the mean for MAML, the mean of the worst 5 % for the others. The final model is reported too. Tests have
10,000 tasks, the same for every method and seed. CVaR is the mean of the largest 5 % of losses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from roml_jax import config as configs
from roml_jax import experiment, risk
from roml_jax.config import seed_plan

# the sampler and the paper's figures (30 seeds): mean and CVaR after one step, mean and CVaR after four steps
METHODS = {
    "MAML": ("uniform", (2.94, 11.1, 2.70, 13.1)),
    "RoML-MAML": ("cem", (3.33, 10.85, 2.97, 11.05)),
    "CVaR-ML": ("tail", (3.65, 11.45, 3.25, 12.2)),
}
FIGURES = ("mean_1", "cvar_1", "mean_4", "cvar_4")


def _summary(losses: np.ndarray, alpha: float) -> list[float]:
    """Mean and CVaR of losses (M, 2), for each number of steps."""
    tails = -np.asarray(risk.cvar(-jnp.asarray(losses), alpha))
    return [float(x) for pair in zip(losses.mean(axis=0), tails, strict=True) for x in pair]


def train(sampler: str, seeds: int, options: dict[str, Any]) -> dict[str, Any]:
    """Trains and tests one method; returns each seed's figures for the final and the best validated model."""
    config = configs.make("sine", sampler, "maml", seeds=list(range(seeds)), **options)
    parts = experiment.make(config)
    state = jax.jit(parts.train.init)(*seed_plan.leaves(config.plan))
    chunk, evaluate, test = (jax.jit(f) for f in (parts.train.chunk, parts.evaluate, parts.test))

    def by_seed(returns: Any) -> np.ndarray:
        return -np.asarray(returns).reshape(seeds, *returns.shape[-2:])

    def keep_better(state: Any, best: Any, lowest: np.ndarray) -> tuple[Any, np.ndarray]:
        losses = by_seed(evaluate(state.learner).returns)
        column = 0 if sampler == "uniform" else 1
        scores = np.array([_summary(one, config.alpha)[column] for one in losses])
        better = scores < lowest
        pick = better if seeds > 1 else better[0]

        def select(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(pick.reshape(pick.shape + (1,) * (new.ndim - pick.ndim)), new, old)

        return jax.tree.map(select, state.learner, best), np.minimum(scores, lowest)

    best, lowest = state.learner, np.full(seeds, np.inf)
    done, phi, began = 0, [], time.perf_counter()
    while done < parts.num_iterations:
        to_validation = config.eval.interval - done % config.eval.interval
        n = min(parts.train.chunk_length, to_validation, parts.num_iterations - done)
        state, metrics = chunk(state, jnp.int32(n))
        done += n
        if done % config.eval.interval == 0 or done == parts.num_iterations:
            best, lowest = keep_better(state, best, lowest)
        phi.append([float(np.mean(metrics[f"sampler/phi_{i}"][n - 1])) for i in range(3)])
    seconds = time.perf_counter() - began
    learners = {"final": state.learner, "best": best}
    tested = {name: by_seed(test(learner).returns) for name, learner in learners.items()}
    figures = {name: [_summary(one, config.alpha) for one in losses] for name, losses in tested.items()}
    return {
        "sampler": sampler,
        "seconds": round(seconds, 1),
        "iterations": done,
        "phi_mean": phi[-1],
    } | figures


def summarise(result: dict[str, Any], model: str) -> dict[str, Any]:
    """Means over seeds with 95 % bootstrap intervals."""
    values = np.asarray(result[model])
    index = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.percentile(values[index].mean(axis=1), [2.5, 97.5], axis=0)
    return {
        name: {"mean": round(float(m), 3), "ci95": [round(float(a), 3), round(float(b), 3)]}
        for name, m, a, b in zip(FIGURES, values.mean(axis=0), low, high, strict=True)
    }


def table(results: dict[str, Any]) -> Table:
    """A table of all methods, with the paper's figures."""
    rows = Table(title="sine regression: loss, mean over seeds [95 % interval]")
    for heading in ("method", "model", *FIGURES):
        rows.add_column(heading)
    for method, result in results.items():
        for model in ("final", "best"):
            cells = summarise(result, model).values()
            rows.add_row(
                method, model, *(f"{c['mean']:.2f} [{c['ci95'][0]:.2f}, {c['ci95'][1]:.2f}]" for c in cells)
            )
        rows.add_row(method, "paper", *(f"{x:.2f}" for x in METHODS[method][1]))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Trains every method, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds per method (default: %(default)s)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods (default: all)"
    )
    parser.add_argument("--option", nargs="*", default=[], metavar="NAME=VALUE", help="training options")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    options = dict(option.split("=", 1) for option in args.option)
    results: dict[str, Any] = {}
    for method in args.methods:
        result = train(METHODS[method][0], args.seeds, options)
        summary = {model: summarise(result, model) for model in ("final", "best")}
        paper = dict(zip(FIGURES, METHODS[method][1], strict=True))
        results[method] = result | {"summary": summary, "paper": paper}
        if args.out:  # after each method, since a method takes minutes
            args.out.parent.mkdir(parents=True, exist_ok=True)
            content = {"machine": machine.describe(), "seeds": args.seeds, "options": args.option}
            args.out.write_text(json.dumps(content | {"results": results}, indent=1) + "\n")
    Console().print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
