"""The whole iteration, lowered and compiled for a target; runs in a process with the target's environment."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from benchmarks.compiled import hlo, targets
from roml_jax import config as configs
from roml_jax import experiment
from roml_jax.config import seed_plan
from roml_jax.run import sharding


def _mesh(devices: Any, text: str) -> Mesh | None:
    """The mesh of a target's devices; None for one device."""
    if text == "none":
        return None
    sizes = dict(part.split("=") for part in text.split(","))
    shape = int(sizes.get("seed", 1)), int(sizes.get("task", 1))
    grid = np.asarray(devices[: shape[0] * shape[1]]).reshape(shape)
    return Mesh(grid, (sharding.SEED, sharding.TASK), axis_types=(AxisType.Auto, AxisType.Auto))


def _config(env: str, seeds: int) -> configs.Config:
    """The paper's options of RoML on VariBAD, one iteration a call."""
    physics = {"env.physics": "mjx"} if "env.physics" in configs.to_mapping(configs.make(env)) else {}
    return configs.make(
        env, "cem", seeds=list(range(seeds)), chunk=1, compile_cache=False, learning_starts=0, **physics,
        **{"vae.buffer_trajectories": 1000},
    )  # fmt: skip


def _shapes(parts: experiment.Experiment, config: configs.Config, mesh: Mesh | None, device: Any) -> Any:
    """Shapes of the chunk's arguments, each with its sharding."""
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
    count = jax.ShapeDtypeStruct((), jnp.int32)
    if mesh is None:
        alone = SingleDeviceSharding(device)
        place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=alone)  # noqa: E731
        return jax.tree.map(place, (shapes, count))
    whole = NamedSharding(mesh, PartitionSpec())
    state = sharding.placed_shapes(mesh, shapes, len(config.plan))
    return state, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)


def _named(loops: list[hlo.Loop], horizon: int, steps: int, minibatches: int) -> dict[str, float]:
    """Kernels of the parts of an iteration that its loops show, by their place and their trips.

    A trip of a GRU's loop has several of a trajectory's ``steps``.
    """
    learning = [loop for loop in loops if loop.where.endswith("jit(learn)/while")]
    found = {
        "environment step": [
            loop for loop in loops if loop.trips == horizon and "jit(learn)" not in loop.where
        ],
        "PPO minibatch": [loop for loop in learning if loop.trips == minibatches],
        "GRU step": [loop for loop in loops if "gru" in loop.where.lower()],
    }
    a_trip: dict[str, float] = {
        name: max(loop.kernels for loop in some) for name, some in found.items() if some
    }
    if gru := [loop.kernels * loop.trips / steps for loop in found["GRU step"] if loop.trips]:
        a_trip["GRU step"] = round(max(gru), 1)
    return a_trip


def measure(target: str, env: str, mesh_text: str, dump: Path | None = None) -> dict[str, Any]:
    """Compiles one iteration; what the executable says about itself."""
    devices = targets.devices(target)
    mesh = _mesh(devices, mesh_text)
    seeds = 1 if mesh is None else mesh.shape[sharding.SEED]
    config = _config(env, seeds)
    parts = experiment.make(
        config, placement=experiment.ONE_DEVICE if mesh is None else sharding.on_mesh(mesh)
    )
    began = time.monotonic()
    platform = targets.TARGETS[target].platform
    shapes = _shapes(parts, config, mesh, devices[0])
    lowered = (
        jax.jit(parts.train.chunk, donate_argnums=0).trace(*shapes).lower(lowering_platforms=(platform,))
    )
    traced = time.monotonic()
    compiled = lowered.compile()
    done = time.monotonic()
    text = compiled.as_text()
    if dump is not None:
        dump.write_text(text)
    counts, memory = hlo.count(text), compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    spec, options = config.protocol.agent_spec(parts.env.spec), configs.to_mapping(config)
    minibatches = options["ppo.epochs"] * options["ppo.minibatches"]
    return {
        "target": target, "env": env, "mesh": mesh_text, "seeds": seeds,
        "frames": parts.frames_per_iteration, "trace_s": round(traced - began, 1),
        "compile_s": round(done - traced, 1),
        "memory_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        "state_mib": round(memory.argument_size_in_bytes / 2**20, 1),
        "gflop": round(costs.get("flops", 0.0) / 1e9, 3),
        "gbyte": round(costs.get("bytes accessed", 0.0) / 1e9, 3),
        "instructions": sum(map(len, hlo.parse(text)[0].values())),
        "kernels": counts.kernels,
        "kernels_of": _named(counts.loops, spec.horizon, spec.episodes * spec.horizon, minibatches),
        "loops_of_unknown_length": sum(loop.trips is None for loop in counts.loops),
        "collectives": counts.collectives,
    }  # fmt: skip


def main(target: str, env: str, mesh: str, out: str, dump: str = "") -> None:
    """Writes what ``measure`` finds, or the one line why the program does not compile, as JSON."""
    try:
        result = measure(target, env, mesh, Path(dump) if dump else None)
    except Exception as error:  # whatever the compiler says is the result
        lines = str(error).strip().splitlines() or [""]
        result = {"target": target, "env": env, "mesh": mesh, "failed": f"{type(error).__name__}: {lines[0]}"}
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
