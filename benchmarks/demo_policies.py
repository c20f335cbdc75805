"""Turns runs into the policies that come with the package, for ``python -m roml_jax.demo``.

    python -m benchmarks.demo_policies RUN ... [--seed S] [--commit SHA] [--folder FOLDER]

A run is one of RoML (``--sampler cem``) or of VariBAD (``--sampler uniform``) on an environment of a demo.
The policy is a seed's best learner by CVaR on the validation tasks. By default the seed is the one whose best
CVaR is the median of the run's seeds (the lower of two), so that a demo shows a usual policy, not the
luckiest. The file holds the policy's origin, and its mean and CVaR on the held-out tasks of the run's final
test. An old file is replaced when the new one is complete.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roml_jax import held_out
from roml_jax.demo import shipped
from roml_jax.errors import ConfigError
from roml_jax.run import cli, compile_cache, provenance, saved
from roml_jax.run import folder as run_folder
from roml_jax.run.parser import Parser
from roml_jax.run.saved import Saved

_WHICH = "best_cvar"
_LIMIT = 1_000_000  # bytes of a file


def median_place(run: Saved, rows: Sequence[dict[str, Any]]) -> int:
    """The position of the seed with the median of the best validation CVaRs.

    Args:
        run: the run, without a sweep.
        rows: its metrics.
    """
    best = [
        max(row["eval/cvar"] for row in rows if row["seed"] == seed.seed and "eval/cvar" in row)
        for seed in run.config.plan
    ]
    return int(np.argsort(best)[(len(best) - 1) // 2])


def _method(run: Saved) -> str:
    """The name of a run's method in the paths of policies.

    Raises:
        ConfigError: for a run of another method or environment; one line.
    """
    config = run.config
    for name, (_, sampler) in shipped.METHODS.items():
        if (config.agent, config.sampler) == ("varibad", sampler) and config.env in shipped.DEMOS:
            return name
    samplers = " or ".join(sampler for _, sampler in shipped.METHODS.values())
    raise ConfigError(
        f"{run.folder} is a run of {config.env} x {config.sampler} x {config.agent}: demos are of "
        f"{', '.join(shipped.DEMOS)} x {samplers} x varibad"
    )


def history(run: Saved, place: int, commit: str | None) -> dict[str, Any]:
    """Where a policy comes from, and its returns on held-out tasks."""
    config, learner = run.config, run.parts.learner
    sessions = provenance.read(run.folder) or [{}]
    first, last = sessions[0], sessions[-1]
    tasks, key = held_out.draw(run.parts.env.family, config.eval.test_tasks, config.eval.seed, "test")
    returns = jax.jit(learner.test)(run.one(place), tasks, key).returns
    alpha = config.alphas[place]
    found = held_out.summarise(returns, alpha)
    return {
        "env": config.env,
        "sampler": config.sampler,
        "agent": config.agent,
        "seed": config.plan[place].label,
        "frames": int(run.iterations[place]) * run.parts.frames_per_iteration,
        "tasks": config.eval.test_tasks,
        "alpha": alpha,
        "mean": float(found["return_mean"]),
        "cvar": float(found["cvar"]),
        "roml_jax": first.get("roml_jax", "0.1.0"),
        "commit": commit or first.get("commits", {}).get("roml_jax"),
        "jax": first.get("jax"),
        "device": first.get("device"),
        "started": first.get("started"),
        "ended": last.get("ended"),
    }


def _ship(source: Path, arguments: argparse.Namespace) -> str:
    """Writes the policy of one run; returns a line about it."""
    run = saved.load(source, _WHICH)
    method = _method(run)
    rows = run_folder.read_metrics(source / run_folder.METRICS)
    place = median_place(run, rows) if arguments.seed is None else run.place(arguments.seed)
    known = history(run, place, arguments.commit)
    path = shipped.path_of(run.config.env, method, arguments.folder)
    new = shipped.write(path.with_name(f"new-{path.name}"), run, place, known)
    size = new.stat().st_size
    if size > _LIMIT:
        new.unlink()
        raise ConfigError(f"the policy of {source} takes {size} bytes; the limit is {_LIMIT}")
    new.replace(path)
    return (
        f"{path} ({size / 1e6:.2f} MB): seed {known['seed']}, {known['frames']:.3g} frames, mean "
        f"{known['mean']:.4g}, CVaR {known['alpha']:g} {known['cvar']:.4g}, commit {known['commit']}"
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.demo_policies", description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--seed", help="the runs' seed to take (default: the one of median CVaR)")
    parser.add_argument("--commit", help="the commit that trained the runs (default: of provenance.json)")
    parser.add_argument(
        "--folder", type=Path, default=shipped.FOLDER, help="where to write (default: the package)"
    )
    return parser


def command(argv: Sequence[str]) -> None:
    """Writes the policies of runs.

    Raises:
        ConfigError: for wrong input; one line.
    """
    arguments = _parser().parse_args(argv)
    compile_cache.prepare(cache=True)
    for source in arguments.runs:
        print(_ship(source, arguments), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
