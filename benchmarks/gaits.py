"""Counts somersaults of trained half-cheetahs.

    python -m benchmarks.gaits RUN [RUN ...] [--tasks 32]

For every seed's last learner, on held-out tasks from the prior: the mean return, and how many times the torso
turns over in an episode. Somersaults are a local optimum of this robot that a return alone does not show.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from roml_jax import held_out, rollout
from roml_jax.errors import ConfigError
from roml_jax.run import cli, saved
from roml_jax.run.parser import Parser, positive
from roml_jax.types import EnvSpec

_PITCH = 1  # index of the pitch in the observed positions: the root's height, its pitch, the joints


def is_cheetah(env: str) -> bool:
    """Whether the environment is a half-cheetah."""
    return env.startswith("cheetah")


def turned(spec: EnvSpec, obs: jax.Array) -> jax.Array:
    """Net turns of the torso in an episode, mean over episodes (M,), from observations (M, K, H + 1, D).

    They count from the second observation of an episode: the first is that of the previous episode's end with
    ``boundary="terminal"``.
    """
    pitch = obs[..., spec.obs_slices["position"].start + _PITCH]
    return (jnp.abs(pitch[:, :, -1] - pitch[:, :, 1]) / (2 * jnp.pi)).mean(axis=1)


def turns(run: saved.Saved, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the mean return of every seed and task (S, M), the mean turns of the torso (S, M)).

    Raises:
        ConfigError: if the run's environment is not a half-cheetah; one line.
    """
    parts, config = run.parts, run.config
    if not is_cheetah(config.env):
        raise ConfigError(f"gaits are for half-cheetahs only, but {run.folder} is a run on {config.env}")
    drawn, key = held_out.draw(parts.env.family, tasks, config.eval.seed, "test")

    @jax.jit
    def act(learner: Any) -> tuple[jax.Array, jax.Array]:
        experience, outcome = rollout.run_test(
            parts.agent, parts.env, config.protocol, learner, drawn, key, record=True
        )
        return outcome.returns.mean(axis=1), turned(parts.env.spec, experience.obs)

    by_seed = [jax.device_get(act(run.one(place))) for place in range(len(config.plan))]
    return np.stack([returns for returns, _ in by_seed]), np.stack([turns for _, turns in by_seed])


def command(argv: Sequence[str]) -> None:
    """Prints a table with a row per seed of every run.

    Raises:
        ConfigError: for wrong input; one line.
    """
    parser = Parser(
        prog="python -m benchmarks.gaits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument(
        "--tasks", type=positive, default=32, help="number of held-out tasks (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    table = Table("run", "seed", "mean return", "turns per episode")
    table.columns[0].overflow = "fold"
    for folder in args.runs:
        run = saved.load(folder)
        for one, returns, turned in zip(run.config.plan, *turns(run, args.tasks), strict=True):
            table.add_row(str(folder), str(one.seed), f"{returns.mean():,.1f}", f"{turned.mean():.2f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(cli.run(command))
