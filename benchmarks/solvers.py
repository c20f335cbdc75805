"""Compares the solver in the humanoid's file, PGS with 50 iterations, with Newton's solver, which MJX has.

    python -m benchmarks.solvers [--env humanoid_mass ...]

Both run on MuJoCo's C engine. Compared are one control step from states that a random and a sinusoidal policy
visit, and the mean reward of episodes of random actions in the same 32 tasks from the same initial states.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from benchmarks import parity
from roml_jax import envs
from roml_jax.envs import TaskEnv, physics
from roml_jax.types import Array


def with_pgs(env: TaskEnv, iterations: int = 50) -> TaskEnv:
    """The environment with the solver in the humanoid's file."""
    model = copy.copy(env.physics.model)
    model.opt.solver, model.opt.iterations = mujoco.mjtSolver.mjSOL_PGS, iterations
    task = jnp.ones(len(env.family.names))
    readings = tuple(jax.eval_shape(env.reset, jax.random.key(0), task).physics.readings)
    return replace(env, physics=physics.make("mujoco", model, env.physics.frame_skip, readings))


def episode_rewards(env: TaskEnv, tasks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Mean reward per step (n,) of one episode of uniformly random actions."""
    n, space = len(tasks), env.spec.action
    actions = jax.random.uniform(
        jax.random.key(seed + 1), (env.horizon, n, space.size), minval=space.low, maxval=space.high
    )

    def move(state: envs.EnvState, action: Array) -> tuple[envs.EnvState, Array]:
        state = jax.vmap(env.step)(state, action)
        return state, state.reward

    start = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(seed), n), jnp.asarray(tasks))
    return np.asarray(jax.jit(lambda start: jax.lax.scan(move, start, actions)[1])(start)).mean(axis=0)


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name in parity.ENVS if name.startswith("humanoid")]
    parser.add_argument(
        "--env", nargs="+", default=names, choices=names, metavar="NAME",
        help=f"environments (default: all of {', '.join(names)})",
    )  # fmt: skip
    for name in parser.parse_args(argv).env:
        newton = parity.make(name, physics="mujoco")
        pgs, tasks = with_pgs(newton), parity.tasks_of(newton)
        visits = parity.visit(newton, tasks)
        errors = parity.errors(parity.ours(pgs, visits), parity.ours(newton, visits))
        print(f"{name}: one control step from {len(errors['qpos'])} states, median / p99 / max difference")
        for quantity, figures in parity.summary(errors).items():
            print(f"  {quantity:7}", " / ".join(f"{figure:.1e}" for figure in figures))
        rewards = [episode_rewards(env, tasks) for env in (newton, pgs)]
        difference = rewards[1] - rewards[0]
        print(
            f"  episodes of random actions: mean reward {rewards[0].mean():.4f} with Newton, "
            f"{rewards[1].mean():.4f} with PGS; difference by task {difference.mean():+.4f}, "
            f"standard error {difference.std(ddof=1) / len(tasks) ** 0.5:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
