"""Time of one control step of a deployed policy: ``act`` and ``observe``, on a CPU.

    python -m benchmarks.deploy [--env cheetah_mass] [--agent varibad rl2 multitask] [--robots 1 16]
                                [--out FILE]

The policies are untrained: their weights do not change the time. They run in this package, as
``roml_jax.load`` gives them, with and without checks; exported for JAX, under ``jax.jit`` and called as they
are; and exported as ONNX models, in onnxruntime. All take turns, so that a drift of the machine's speed
affects all alike. Observations and actions are NumPy arrays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import roml_jax
from benchmarks import machine
from roml_jax import experiment
from roml_jax.deploy import onnx_policy
from roml_jax.deploy import policy as policies
from roml_jax.deploy.policy import Policy, exported

Step = Callable[[], None]


def make(env: str, agent: str) -> Policy:
    """An untrained policy."""
    config = roml_jax.make_config(env, "uniform", agent)
    parts = experiment.make(config)
    return policies.make(parts, config.protocol, jax.jit(parts.agent.init)(jax.random.key(0)))


def in_package(policy: Policy, n: int) -> Step:
    """A step of a loaded policy, which continues from the last one."""
    obs, reward = np.zeros((n, policy.obs_size), np.float32), np.zeros(n, np.float32)
    memory = policy.warm_up(n).begin(n)

    def step() -> None:
        nonlocal memory
        _, memory = policy.act(memory, obs)
        memory = policy.observe(memory, reward, obs)

    return step


def in_jax(policy: Policy, n: int, compiled: bool) -> Step:
    """A step of the exported programs, under ``jax.jit`` or not."""
    begin, act, observe = (
        jax.jit(function.call) if compiled else function.call for function in exported(policy).values()
    )
    obs, reward = np.zeros((n, policy.obs_size), np.float32), np.zeros(n, np.float32)
    memory, end = begin(np.zeros(n, np.int32)), np.zeros(n, bool)

    def step() -> None:
        nonlocal memory
        action, memory = act(memory, obs)
        np.asarray(action)
        memory = jax.block_until_ready(observe(memory, reward, obs, end))

    return step


def in_onnxruntime(policy: Policy, n: int) -> Step:
    """A step of the ONNX models."""
    models = onnx_policy.models(policy, n)
    act, observe, begin = (
        onnxruntime.InferenceSession(models[name].SerializeToString(), providers=["CPUExecutionProvider"])
        for name in ("act", "observe", "begin")
    )
    given = {
        "obs": np.zeros((n, policy.obs_size), np.float32),
        "reward": np.zeros(n, np.float32),
        "end": np.zeros(n, bool),
    }

    def call(session: Any, memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        known = memory | given
        outputs = session.run(None, {x.name: known[x.name] for x in session.get_inputs()})
        named = zip(session.get_outputs(), outputs, strict=True)
        return {x.name.replace("memory_out.", "memory."): value for x, value in named}

    memory = call(begin, {})

    def step() -> None:
        nonlocal memory
        memory = call(observe, call(act, memory))

    return step


def measure(env: str, agent: str, n: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Times of each way, in milliseconds of one step of n robots together."""
    policy = make(env, agent)
    ways = {
        "loaded": in_package(policy, n),
        "loaded, check=False": in_package(dataclasses.replace(policy, check=False), n),
        "exported, jax.jit": in_jax(policy, n, compiled=True),
        "exported, called as it is": in_jax(policy, n, compiled=False),
        "ONNX, onnxruntime": in_onnxruntime(policy, n),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, step in ways.items():
            for _ in range(steps if "as it is" not in way else max(1, steps // 20)):
                began = time.perf_counter()
                step()
                if turn:  # the first round warms up
                    seconds[way].append(time.perf_counter() - began)
    rows = []
    for way, all_of_way in seconds.items():
        quantiles = 1e3 * np.quantile(all_of_way, (0.0, 0.5, 0.99))
        figures = dict(
            zip(("minimum", "median", "p99"), (round(float(q), 4) for q in quantiles), strict=True)
        )
        rows.append({"env": env, "agent": agent, "robots": n, "way": way, "ms": figures})
    return rows


def first_step(env: str, agent: str) -> dict[str, Any]:
    """Milliseconds of the first step of a policy that was warmed up, and of one that was not."""
    times = {}
    for name, warm in (("warmed up", True), ("not", False)):
        policy = make(env, agent)
        if warm:
            policy.warm_up()
        began = time.perf_counter()
        memory, obs = policy.begin(), np.zeros(policy.obs_size)
        policy.observe(policy.act(memory, obs)[1], 0.0, obs)
        times[name] = round(1e3 * (time.perf_counter() - began), 3)
    return {"env": env, "agent": agent, "first step, ms": times}


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="cheetah_mass")
    parser.add_argument("--agent", nargs="+", default=["varibad", "rl2", "multitask"])
    parser.add_argument("--robots", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="per round and way")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for agent in args.agent:
        for n in args.robots:
            rows += measure(args.env, agent, n, args.rounds, args.steps)
    first = [first_step(args.env, agent) for agent in args.agent]
    table = Table(title=f"act and observe on {args.env}, milliseconds")
    for heading in ("agent", "robots", "way", "minimum", "median", "p99"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["agent"], str(row["robots"]), row["way"], *(f"{value:.3f}" for value in row["ms"].values())
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if args.out:
        results = {"machine": machine.describe(), "results": rows, "first": first}
        results["load_average"] = [round(load, 2) for load in os.getloadavg()]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
