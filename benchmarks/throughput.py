"""How fast each layer runs, from the bare physics to the whole meta-iteration.

    python -m benchmarks.throughput [--env khazad_dum cheetah_mass] [--repeats 5] [--out FILE]

Every layer is compiled once (timed apart), then all layers are timed in turn, round after round, so
that a machine whose speed drifts drifts under all of them; figures are medians. Each environment
runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from roml_jax import config as config_lib
from roml_jax import experiment
from roml_jax.agents import varibad
from roml_jax.types import Discrete, TaskWeights

ENVS = ("khazad_dum", "cheetah_mass")


class Layer(NamedTuple):
    """Something to time: a function of no arguments that waits for its result.

    Attributes:
        name: what it is.
        run: does the work once.
        frames: environment steps that one run stands for.
    """

    name: str
    run: Callable[[], Any]
    frames: int


def _jitted(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*args))


def _random_actions(space: Any, key: jax.Array, n: int) -> jax.Array:
    if isinstance(space, Discrete):
        return jax.random.randint(key, (n,), 0, space.n)
    return jax.random.uniform(key, (n, space.size), minval=space.low, maxval=space.high)


def _env_layers(parts: experiment.Experiment, tasks: jax.Array, steps: int) -> list[Layer]:
    """The bare physics (where there is one) and the environment, under random actions."""
    n, env = tasks.shape[0], parts.env
    keys = jax.random.split(jax.random.key(2), steps)
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), n), tasks)

    def roll(state: Any) -> Any:
        def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
            state = jax.vmap(env.step)(state, _random_actions(env.spec.action, key, n))
            return state, state.reward

        return jax.lax.scan(step, state, keys)

    layers = [Layer("env", _jitted(roll, state), n * steps)]
    if hasattr(env, "physics"):
        layers.insert(0, Layer("physics", _jitted(_bare_physics(env, n, keys), state), n * steps))
    return layers


def _bare_physics(env: Any, n: int, keys: jax.Array) -> Callable[[Any], Any]:
    """A loop of nothing but vmapped ``mjx.step``, each task with its own edited model."""
    from roml_jax.quiet import mjx

    model = mjx.put_model(env.model, impl="jax")
    blank = mjx.make_data(env.model, impl="jax")

    def roll(state: Any) -> Any:
        data = jax.vmap(lambda p: blank.replace(qpos=p.qpos, qvel=p.qvel))(state.physics)

        def one(data: Any, leaves: Any, ctrl: jax.Array) -> Any:
            return mjx.step(model.tree_replace(dict(leaves)), data.replace(ctrl=ctrl))

        def step(data: Any, key: jax.Array) -> tuple[Any, None]:
            ctrl = _random_actions(env.spec.action, key, n)
            substep = lambda d, _: (jax.vmap(one)(d, state.model, ctrl), None)  # noqa: E731
            return jax.lax.scan(substep, data, None, length=env.frame_skip)[0], None

        return jax.lax.scan(step, data, keys)[0].qpos

    return roll


def _learner_layers(
    parts: experiment.Experiment, config: config_lib.Config, state: Any, tasks: jax.Array
) -> list[Layer]:
    """Rollout, PPO and VAE updates and the sampler, as one iteration runs them."""
    frames, key = parts.frames_per_iteration, jax.random.key(3)
    agent_config, spec = config.agent_options, config.protocol.agent_spec(parts.env.spec)
    networks = varibad.make_networks(spec, agent_config)
    _, rollout, _ = jax.jit(parts.learner.collect)(state.learner, tasks, key)
    learner = state.learner._replace(replay=())
    progress = jnp.zeros(())

    def collect(learner: Any, tasks: jax.Array) -> Any:
        return parts.learner.collect(learner, tasks, key)[1:]

    def policy(learner: Any, rollout: Any) -> Any:
        weights = TaskWeights(jnp.ones(tasks.shape[0]), jnp.ones(tasks.shape[0]))
        return varibad.update_policy(
            learner, networks, agent_config, rollout, rollout.reward, weights, key, progress
        )[0].policy

    def belief(learner: Any, rollout: Any) -> Any:
        rows = varibad.trajectory_of(rollout, spec.action)
        index = jnp.arange(agent_config.vae.batch_trajectories) % tasks.shape[0]
        batch = jax.tree.map(lambda x: jnp.stack([x[index]] * agent_config.vae.updates), rows)
        return varibad.update_belief(learner, networks, agent_config, batch, key)[0].belief

    def sampler(state: Any) -> Any:
        after, draw = parts.sampler.sample(state, key, tasks.shape[0])
        return parts.sampler.update(after, draw, draw.u[:, 0], key, progress)[0].phi

    return [
        Layer("rollout", _jitted(collect, learner, tasks), frames),
        Layer("ppo", _jitted(policy, learner, rollout), frames),
        Layer("vae", _jitted(belief, learner, rollout), frames),
        Layer("cem", _jitted(sampler, state.sampler), frames),
    ]


def _iteration_layer(parts: experiment.Experiment, state: Any) -> Layer:
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    held = [state]

    def run() -> Any:
        held[0], metrics = chunk(held[0], jnp.int32(parts.train.chunk_length))
        return jax.block_until_ready((held[0], metrics))

    return Layer("whole iteration", run, parts.frames_per_iteration * parts.train.chunk_length)


def measure(env: str, repeats: int, options: dict[str, Any]) -> dict[str, Any]:
    """Times all layers of one environment in this process."""
    config = config_lib.make(env, "cem", **options)
    parts = experiment.make(config)
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    tasks = parts.env.family.sample_prior(jax.random.key(1), config.num_tasks)
    # the whole iteration last: it donates the state that the others read
    layers = _env_layers(parts, tasks, steps=100) + _learner_layers(parts, config, state, tasks)
    layers.append(_iteration_layer(parts, jax.tree.map(jnp.copy, state)))
    del state
    first = {}
    for layer in layers:
        start = time.perf_counter()
        layer.run()
        first[layer.name] = time.perf_counter() - start
    layers[-1].run()  # touches the rest of the replay's pages
    seconds: dict[str, list[float]] = {layer.name: [] for layer in layers}
    for _ in range(repeats):
        for layer in layers:
            start = time.perf_counter()
            layer.run()
            seconds[layer.name].append(time.perf_counter() - start)
    rows = {}
    for layer in layers:
        median = statistics.median(seconds[layer.name])
        rows[layer.name] = {
            "compile_s": round(max(first[layer.name] - median, 0.0), 2),
            "run_ms": round(1000 * median, 3),
            "frames_per_s": round(layer.frames / median),
            "frames_per_s_min_max": [
                round(layer.frames / t) for t in (max(seconds[layer.name]), min(seconds[layer.name]))
            ],
        }
    result = {
        "env": env,
        "num_tasks": config.num_tasks,
        "frames_per_iteration": parts.frames_per_iteration,
        "layers": rows,
    }
    if "physics" in rows:
        ratios = [
            (layers[-1].frames / whole) / (layers[0].frames / bare)
            for whole, bare in zip(seconds["whole iteration"], seconds["physics"], strict=True)
        ]
        result["whole_over_physics"] = round(statistics.median(ratios), 3)
    return result | {"peak_memory_gib": round(machine.peak_memory_gib(), 2)}


def table(result: dict[str, Any]) -> Table:
    """One environment's figures, for people."""
    ratio = result.get("whole_over_physics")
    note = "" if ratio is None else f", whole iteration at {ratio:.0%} of the bare physics"
    title = f"{result['env']}: {result['num_tasks']} tasks, peak {result['peak_memory_gib']} GiB{note}"
    shown = Table(title=title)
    for heading in ("layer", "compile s", "run ms", "frames/s", "slowest", "fastest"):
        shown.add_column(heading, justify="left" if heading == "layer" else "right")
    for name, row in result["layers"].items():
        slow, fast = row["frames_per_s_min_max"]
        shown.add_row(
            name,
            f"{row['compile_s']:.1f}",
            f"{row['run_ms']:,.1f}",
            f"{row['frames_per_s']:,}",
            f"{slow:,}",
            f"{fast:,}",
        )
    return shown


def main(argv: list[str] | None = None) -> int:
    """Runs each environment in its own process, prints the tables, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=list(ENVS), help="environments to measure")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that the medians are taken over")
    parser.add_argument("--option", nargs="*", default=[], metavar="NAME=VALUE", help="training options")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    console = Console()
    if args.in_process:
        options = dict(option.split("=", 1) for option in args.option)
        args.out.write_text(json.dumps(measure(args.env[0], args.repeats, options)))
        return 0
    results = []
    for env in args.env:
        with tempfile.TemporaryDirectory() as folder, console.status(f"measuring {env} ..."):
            part = Path(folder) / "result.json"
            command = [
                sys.executable,
                "-m",
                "benchmarks.throughput",
                "--in-process",
                "--env",
                env,
                "--out",
                str(part),
            ]
            command += ["--repeats", str(args.repeats), *(["--option", *args.option] if args.option else [])]
            if subprocess.run(command, check=False).returncode:
                return 1
            results.append(json.loads(part.read_text()))
        console.print(table(results[-1]))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine.describe(), "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
