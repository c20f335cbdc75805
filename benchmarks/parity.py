"""The error of one control step of the environments, compared with MuJoCo's C engine in double precision.

    python -m benchmarks.parity [--env ant_mass cheetah_multi:a ...] [--physics mujoco mjx]
                                [--limits 2/4 4/8 ...] [--out FILE]

A random and a sinusoidal policy visit the states, in 32 tasks that include the corners of the task range.
From each state, the environment makes one control step (float32 states), and so does ``mujoco_oracle``, which
shares no code with it. ``--limits`` are maximum solver and line-search iterations.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine, mujoco_oracle
from roml_jax import envs
from roml_jax.envs import TaskEnv
from roml_jax.types import Array

ENVS = (
    "cheetah_vel", "cheetah_mass", "cheetah_body", "cheetah_multi:a", "cheetah_multi:b", "cheetah_multi:c",
    "humanoid_vel", "humanoid_mass", "humanoid_body", "ant_goal", "ant_vel", "ant_mass", "ant_body",
    "hopper_dynamics", "walker2d_dynamics",
)  # fmt: skip
QUANTITIES = ("qpos", "qvel", "obs", "reward")
TASKS, STEPS, SKIPPED, STRIDE = 32, 96, 3, 3


class Step(NamedTuple):
    """Results of a control step of n environments.

    Attributes:
        qpos: (n, nq) positions after the step.
        qvel: (n, nv) velocities after the step.
        obs: (n, D) observations.
        reward: (n,) rewards.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    obs: np.ndarray
    reward: np.ndarray


class Visits(NamedTuple):
    """Visited states and the next actions, axes (time, task, ...).

    Attributes:
        states: the environments' states.
        actions: (time, task, nu).
    """

    states: envs.EnvState
    actions: np.ndarray


def make(label: str, **options: Any) -> TaskEnv:
    """An environment by its label, ``name`` or ``name:set``, whose episodes do not end early."""
    name, _, chosen = label.partition(":")
    env = envs.make(name, **options, **({"set": chosen} if chosen else {}))
    return dataclasses.replace(env, terminate=None)


def tasks_of(env: TaskEnv, n: int = TASKS, seed: int = 0) -> np.ndarray:
    """Tasks (n, d) from the prior; the first are the range's corners (for d > 4, its two ends)."""
    tasks = np.array(env.family.sample_prior(jax.random.key(seed), n))
    ranges = np.array(env.family.ranges)
    few = len(ranges) <= 4
    corners = np.array(list(itertools.product(*ranges))) if few else ranges.T
    tasks[: len(corners)] = corners
    return tasks


def visit(env: TaskEnv, tasks: np.ndarray, steps: int = STEPS, seed: int = 0) -> Visits:
    """States under normal and under sinusoidal actions; each task has both, one after the other."""
    n, nu = len(tasks), env.spec.action.size
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(steps, n, nu))
    clock = np.arange(steps)[:, None, None]
    swing = 1.2 * np.sin(0.5 * clock + rng.uniform(0, 2 * np.pi, (n, nu)))
    scripted = (clock < steps // 2) == (np.arange(n) % 2)[:, None]
    actions = np.where(scripted, swing, actions).astype(np.float32)

    def move(state: envs.EnvState, action: Array) -> tuple[envs.EnvState, envs.EnvState]:
        return jax.vmap(env.step)(state, action), state

    @jax.jit
    def roll(keys: Array, tasks: Array, actions: Array) -> envs.EnvState:
        return jax.lax.scan(move, jax.vmap(env.reset)(keys, tasks), actions)[1]

    states = roll(jax.random.split(jax.random.key(seed), n), jnp.asarray(tasks), actions)
    selected = slice(SKIPPED, None, STRIDE)
    return Visits(jax.tree.map(lambda x: x[selected], states), actions[selected])


def ours(env: TaskEnv, visits: Visits) -> Step:
    """One step of an environment from every state, which another engine may have visited."""
    times, tasks, nu = visits.actions.shape
    flat = jax.tree.map(lambda x: x.reshape(times * tasks, *x.shape[2:]), visits.states)
    actions = visits.actions.reshape(times * tasks, nu)

    def step(state: envs.EnvState, action: Array) -> envs.EnvState:
        leaves = env.physics.prepare(env.apply_task(state.task))
        return env.step(state._replace(model=leaves), action)

    after = jax.jit(jax.vmap(step))(flat, actions)
    return Step(*map(np.asarray, (after.physics.qpos, after.physics.qvel, after.obs, after.reward)))


def oracle(label: str, tasks: np.ndarray, visits: Visits) -> Step:
    """The same steps by ``mujoco_oracle``."""
    name, _, chosen = label.partition(":")
    models = [mujoco_oracle.task_model(name, task.astype(float), chosen or None) for task in tasks]
    datas = [mujoco.MjData(model) for model in models]
    state = jax.tree.map(np.asarray, visits.states.physics)
    rows = []
    for t, i in itertools.product(*map(range, visits.actions.shape[:2])):
        model, data, action = models[i], datas[i], visits.actions[t, i]
        qpos, qvel, warm = state.qpos[t, i], state.qvel[t, i], state.qacc_warmstart[t, i]
        before = {"root": float(qpos[0])}
        if "xpos" in state.readings:
            before["torso"] = float(state.readings["xpos"][t, i, 1, 0])
        if "xipos" in state.readings:
            places = state.readings["xipos"][t, i, :, 0]
            before["center"] = float((model.body_mass * places).sum() / model.body_mass.sum())
        mujoco_oracle.step(name, model, data, (qpos, qvel, warm), action)
        reward = mujoco_oracle.reward(name, model, data, tasks[i], action, before)
        rows.append((data.qpos.copy(), data.qvel.copy(), mujoco_oracle.observe(name, data), reward))
    return Step(*(np.array(column) for column in zip(*rows, strict=True)))


def errors(step: Step, expected: Step) -> dict[str, np.ndarray]:
    """The largest absolute difference of each step, (n,) by quantity."""
    return {
        name: abs(mine - theirs).reshape(len(mine), -1).max(axis=1)
        for name, mine, theirs in zip(QUANTITIES, step, expected, strict=True)
    }


def summary(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """(median, 99th percentile, maximum) by quantity."""
    return {
        name: [float(f"{q:.2g}") for q in np.quantile(values, (0.5, 0.99, 1.0))]
        for name, values in found.items()
    }


def measure(label: str, engines: list[str], limits: list[tuple[int | None, int | None]]) -> list[dict]:
    """Measures all engines and limits on the same states of one environment."""
    guide = make(label, physics="mujoco")
    tasks = tasks_of(guide)
    visits = visit(guide, tasks)
    expected = oracle(label, tasks, visits)
    rows = []
    for engine, (iterations, ls_iterations) in itertools.product(engines, limits):
        begin = time.monotonic()
        env = make(label, physics=engine, iterations=iterations, ls_iterations=ls_iterations)
        differences = errors(ours(env, visits), expected)
        option = env.physics.model.opt
        rows.append(
            {
                "env": label,
                "physics": engine,
                "limits": f"{option.iterations}/{option.ls_iterations}",
                "states": len(expected.reward),
                **summary(differences),
                "seconds": round(time.monotonic() - begin, 1),
            }
        )
    return rows


def table(rows: list[dict]) -> Table:
    """A table of the results: median / 99th percentile / maximum."""
    results = Table(title="one control step: median / p99 / max of the largest absolute difference")
    for heading in ("env", "physics", "limits", "states", *QUANTITIES):
        results.add_column(heading)
    for row in rows:
        figures = (" / ".join(f"{value:.0e}" for value in row[name]) for name in QUANTITIES)
        results.add_row(row["env"], row["physics"], row["limits"], str(row["states"]), *figures)
    return results


def _limits(text: str) -> tuple[int, int]:
    iterations, _, ls_iterations = text.partition("/")
    if not (iterations.isdigit() and ls_iterations.isdigit()):
        raise argparse.ArgumentTypeError(
            f"must be solver iterations/line-search iterations, e.g. 4/8, got {text!r}"
        )
    return int(iterations), int(ls_iterations)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a table per environment, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--env", nargs="+", default=list(ENVS), choices=ENVS, metavar="NAME",
        help=f"environments (default: all of {', '.join(ENVS)})",
    )  # fmt: skip
    parser.add_argument(
        "--physics", nargs="+", default=["mujoco", "mjx"], choices=["mujoco", "mjx"],
        help="engines (default: both)",
    )  # fmt: skip
    parser.add_argument(
        "--limits", nargs="+", type=_limits, default=[(None, None)], metavar="N/M",
        help="maximum solver and line-search iterations (default: the environment's)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 170)
    rows = []
    for label in args.env:
        rows += measure(label, args.physics, args.limits)
        console.print(table(rows[-len(args.physics) * len(args.limits) :]))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine.describe(), "results": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
