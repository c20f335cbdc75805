"""The speed of each layer, from the bare physics to the whole meta-iteration.

    python -m benchmarks.throughput [--env khazad_dum cheetah_mass] [--repeats 5] [--out FILE]
    python -m benchmarks.throughput --env khazad_dum --agent varibad rl2 maml multitask oracle
    python -m benchmarks.throughput --layers env --physics mujoco mjx --env ant_mass --option num_tasks=256

Every layer is compiled once; the compile time is reported separately. Then all layers are timed in turn in
each round, so that a drift of the machine's speed affects all of them alike. Figures are medians over rounds.
Each environment runs in its own process, so that peak memory is that of one environment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import bare, machine
from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.agents import varibad
from roml_jax.agents.history import trajectory_of
from roml_jax.config import seed_plan
from roml_jax.envs import TaskEnv
from roml_jax.run import devices, sharding
from roml_jax.types import TaskWeights

ENVS = ("khazad_dum", "cheetah_mass")

Which = Literal["all", "env", "iteration"]
"""The layers to measure: all, only physics and environment, or only the whole iteration."""


class Layer(NamedTuple):
    """A part of an iteration to time.

    Attributes:
        name: name of the layer.
        run: () -> runs the layer once and waits for its result.
        frames: number of environment steps of one run.
        trace: () -> the layer's program as a jaxpr, for counting its work; None for a layer on the host or
            one that donates its arguments.
    """

    name: str
    run: Callable[[], Any]
    frames: int
    trace: Callable[[], Any] | None = None


def _jitted(name: str, frames: int, function: Callable[..., Any], *args: Any) -> Layer:
    compiled = jax.jit(function)
    return Layer(
        name,
        lambda: jax.block_until_ready(compiled(*args)),
        frames,
        lambda: jax.make_jaxpr(function)(*args),
    )


def _env_layers(env: Any, tasks: jax.Array, steps: int) -> list[Layer]:
    """The environment and, if it has an engine, the bare physics; with random actions."""
    keys = jax.random.split(jax.random.key(2), steps)
    state, frames = bare.start(env, tasks), tasks.shape[0] * steps
    layers = [Layer("env", bare.env_loop(env, state, keys), frames)]
    if isinstance(env, TaskEnv):
        layers.insert(0, Layer("physics", bare.physics_loop(env, state, keys), frames))
    return layers


def _varibad_layers(
    parts: experiment.Experiment, config: configs.Config, learner: Any, rollout: Any
) -> list[Layer]:
    """VariBAD's updates: PPO and VAE, as separate layers."""
    frames, key, n = parts.frames_per_iteration, jax.random.key(3), config.num_tasks
    agent_config = config.agent_options
    spec = replace(config.protocol.agent_spec(parts.env.spec), task_size=len(parts.env.family.names))
    networks = varibad.make_networks(spec, agent_config)
    learner = learner._replace(replay=())

    def policy(learner: Any, rollout: Any) -> Any:
        weights, reward = TaskWeights(jnp.ones(n), jnp.ones(n)), rollout.reward
        after, _ = varibad.update_policy(
            learner, networks, agent_config, rollout, reward, weights, key, jnp.zeros(())
        )
        return after.policy

    def belief(learner: Any, rollout: Any) -> Any:
        rows = trajectory_of(rollout, spec.action, agent_config.vae.task_weight > 0)
        index = jnp.arange(agent_config.vae.batch_trajectories) % n
        batch = jax.tree.map(lambda x: jnp.stack([x[index]] * agent_config.vae.updates), rows)
        return varibad.update_belief(learner, networks, agent_config, batch, key)[0].belief

    return [
        _jitted("ppo", frames, policy, learner, rollout),
        _jitted("vae", frames, belief, learner, rollout),
    ]


def _update_layer(
    parts: experiment.Experiment, config: configs.Config, learner: Any, experience: Any
) -> Layer:
    """A learner's update from one iteration; its state is donated, so that a replay buffer is not copied."""
    weights, key = TaskWeights(*[jnp.ones(config.num_tasks)] * 2), jax.random.key(3)

    @partial(jax.jit, donate_argnums=0)
    def update(learner: Any, experience: Any) -> Any:
        return parts.learner.update(learner, experience, weights, key, jnp.zeros(()))

    held = [jax.tree.map(jnp.copy, learner)]

    def run() -> Any:
        held[0], metrics = update(held[0], experience)
        return jax.block_until_ready(metrics)

    return Layer("update", run, parts.frames_per_iteration)


def learner_layers(
    parts: experiment.Experiment, config: configs.Config, state: Any, tasks: jax.Array
) -> list[Layer]:
    """Rollout, the learner's updates and the sampler, as in one iteration."""
    frames, key = parts.frames_per_iteration, jax.random.key(3)
    _, experience, _ = jax.jit(parts.learner.collect)(state.learner, tasks, key)

    def collect(learner: Any, tasks: jax.Array) -> Any:
        _, experience, feedback = parts.learner.collect(learner, tasks, key)
        return experience, feedback.returns

    def sampler(state: Any) -> Any:
        after, draw = parts.sampler.sample(state, key, tasks.shape[0])
        return parts.sampler.update(after, draw, draw.u[:, 0], key, jnp.zeros(()))[0].state.phi

    updates = (
        _varibad_layers(parts, config, state.learner, experience)
        if config.agent == "varibad"
        else [_update_layer(parts, config, state.learner, experience)]
    )
    return [
        _jitted("rollout", frames, collect, state.learner, tasks),
        *updates,
        _jitted("cem", frames, sampler, state.sampler),
    ]


def _iteration_layer(parts: experiment.Experiment, state: Any, num_seeds: int) -> Layer:
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    held = [state]

    def run() -> Any:
        held[0], metrics = chunk(held[0], jnp.int32(parts.train.chunk_length))
        return jax.block_until_ready((held[0], metrics))

    return Layer("whole iteration", run, num_seeds * parts.frames_per_iteration * parts.train.chunk_length)


def _layers(parts: experiment.Experiment, config: configs.Config, which: Which) -> list[Layer]:
    """The layers of ``which``, in the order in which they are measured."""
    tasks = parts.env.family.sample_prior(jax.random.key(1), config.num_tasks * len(config.plan))
    layers = [] if which == "iteration" else _env_layers(parts.env, tasks, steps=100)
    if which == "env":
        return layers
    state = jax.jit(parts.train.init)(*seed_plan.leaves(config.plan))
    if which == "all" and len(config.plan) == 1:
        layers += learner_layers(parts, config, state, tasks)
        state = jax.tree.map(jnp.copy, state)  # copied, since the whole iteration donates its state
    return [*layers, _iteration_layer(parts, state, len(config.plan))]


def of_tasks(n: int) -> dict[str, str]:
    """Options for timing an environment alone with ``n`` tasks: a training of one iteration."""
    return {
        "num_tasks": str(n), "frames": str(400 * n), "sampler.batch_size": str(n),
        "vae.buffer_trajectories": str(n),
    }  # fmt: skip


def measure(
    env: str, repeats: int, options: dict[str, Any], which: Which = "all", agent: str = "varibad"
) -> dict[str, Any]:
    """Times the layers of one environment and one agent in this process; ``learning_starts`` is set to 0."""
    if "learning_starts" in configs.to_mapping(configs.make(env, "cem", agent)):
        options = {"learning_starts": 0} | options
    config = configs.make(env, "cem", agent, **options)
    machine.keep_memory()
    devices.for_run(config)
    parts = experiment.make(config, placement=sharding.placement(config))
    layers = _layers(parts, config, which)
    first = {}
    for layer in layers:
        start = time.perf_counter()
        layer.run()
        first[layer.name] = time.perf_counter() - start
    layers[-1].run()  # so that the remaining memory pages of the replay buffer are in use
    seconds: dict[str, list[float]] = {layer.name: [] for layer in layers}
    for _ in range(repeats):
        for layer in layers:
            start = time.perf_counter()
            layer.run()
            seconds[layer.name].append(time.perf_counter() - start)
    result = {
        "env": env,
        "agent": agent,
        "options": [f"{name}={value}" for name, value in options.items()],
        "physics": parts.env.physics.name if isinstance(parts.env, TaskEnv) else None,
        "num_tasks": config.num_tasks,
        "runs": len(config.plan),
        "frames_per_iteration": parts.frames_per_iteration,
        "layers": {layer.name: _row(layer, first[layer.name], seconds[layer.name]) for layer in layers},
    }
    if layers[0].name == "physics":
        for layer in (layers[1], layers[-1]):
            ratios = [
                (layer.frames / layer_time) / (layers[0].frames / bare_time)
                for layer_time, bare_time in zip(seconds[layer.name], seconds["physics"], strict=True)
            ]
            result[f"{layer.name} over physics"] = round(statistics.median(ratios), 3)
    return result | {"peak_memory_gib": round(machine.peak_memory_gib(), 2)}


def _row(layer: Layer, first: float, seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    return {
        "compile_s": round(max(first - median, 0.0), 2),
        "run_ms": round(1000 * median, 3),
        "frames_per_s": round(layer.frames / median),
        "frames_per_s_min_max": [round(layer.frames / t) for t in (max(seconds), min(seconds))],
    }


def table(result: dict[str, Any]) -> Table:
    """A table of one environment's results."""
    ratios = [f"{name} {value:.0%}" for name, value in result.items() if name.endswith("over physics")]
    engine = f" on {result['physics']}" if result["physics"] else ""
    title = (
        f"{result['env']}{engine}, {result['agent']}: {result['runs']} seeds x {result['num_tasks']} tasks, "
        + ", ".join([f"peak {result['peak_memory_gib']} GiB", *ratios])
    )
    layers = Table(title=title)
    for heading in ("layer", "compile s", "run ms", "frames/s", "slowest", "fastest"):
        layers.add_column(heading, justify="left" if heading == "layer" else "right")
    for name, row in result["layers"].items():
        slow, fast = row["frames_per_s_min_max"]
        layers.add_row(
            name,
            f"{row['compile_s']:.1f}",
            f"{row['run_ms']:,.1f}",
            f"{row['frames_per_s']:,}",
            f"{slow:,}",
            f"{fast:,}",
        )
    return layers


def in_own_process(
    env: str,
    options: list[str],
    *,
    repeats: int,
    layers: Which = "all",
    seconds: float | None = None,
    agent: str = "varibad",
) -> dict[str, Any] | None:
    """Runs ``measure`` in a new process; None if it failed or exceeded the time limit.

    Args:
        env: the environment.
        options: training options as NAME=VALUE.
        repeats: rounds.
        layers: which layers.
        seconds: time limit; None for no limit.
        agent: the agent.
    """
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "result.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.throughput",
            "--in-process",
            "--env",
            env,
            "--agent",
            agent,
        ]
        command += ["--out", str(part), "--repeats", str(repeats), "--layers", layers]
        command += ["--option", *options] if options else []
        try:
            failed = subprocess.run(command, check=False, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            failed = True
        return None if failed else json.loads(part.read_text())


def main(argv: list[str] | None = None) -> int:
    """Measures each environment in its own process, prints tables, writes JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=list(ENVS), help="environments to measure")
    parser.add_argument("--agent", nargs="+", default=["varibad"], help="agents to measure")
    parser.add_argument("--physics", nargs="+", default=["auto"], help="physics engines to measure")
    parser.add_argument(
        "--layers",
        choices=get_args(Which),
        default="all",
        help="env: only physics and environment; iteration: only the whole iteration",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds for the medians")
    parser.add_argument(
        "--option",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="training options; write several values as [1,2]",
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    console = Console()
    if args.in_process:
        pairs = (option.split("=", 1) for option in args.option)
        options = {name: json.loads(value) if value[:1] == "[" else value for name, value in pairs}
        try:
            result = measure(args.env[0], args.repeats, options, args.layers, args.agent[0])
        except configs.ConfigError as error:
            parser.error(str(error))
        args.out.write_text(json.dumps(result))
        return 0
    results = []
    for env, agent in itertools.product(args.env, args.agent):
        has_physics = "env.physics" in configs.to_mapping(configs.make(env))
        for engine in args.physics if has_physics else [None]:
            with console.status(f"measuring {env}, {agent} ..."):
                physics = [f"env.physics={engine}"] if engine else []
                options = [*args.option, *physics]
                result = in_own_process(env, options, repeats=args.repeats, layers=args.layers, agent=agent)
            if result is None:
                return 1
            results.append(result)
            console.print(table(result))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine.describe(), "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
