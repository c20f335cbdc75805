"""Several devices: a mesh with axes ("seed", "task"), and the shardings of a run's arrays on it.

The program is the same as on one device: arrays are global, a few constraints set their shardings, and
XLA's partitioner inserts the communication. Results differ from those of one device only by the order of
float additions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from roml_jax.config import Config
from roml_jax.errors import ConfigError
from roml_jax.experiment import ONE_DEVICE, Placement
from roml_jax.meta import MetaState, Train
from roml_jax.rollout import Constrain, anywhere
from roml_jax.types import Array, Metrics

SEED, TASK = "seed", "task"
_AXES = re.compile(rf"(?P<first>{SEED}|{TASK})=(?P<m>\d+)(,(?P<second>{SEED}|{TASK})=(?P<n>\d+))?")


def fitting(devices: int, num_seeds: int, num_tasks: int) -> list[tuple[int, int]]:
    """All (seed, task) meshes of the given number of devices that divide seeds and tasks.

    The mesh with the most devices along the seeds comes first.
    """
    pairs = ((size, devices // size) for size in range(devices, 0, -1) if devices % size == 0)
    return [(seed, task) for seed, task in pairs if num_seeds % seed == 0 and num_tasks % task == 0]


def _sizes(text: str) -> tuple[int, int]:
    """Parses mesh sizes, returned as (seed, task). An axis that is not named has size 1."""
    match = _AXES.fullmatch(text.replace(" ", ""))
    if match is None or match["first"] == match["second"]:
        raise ValueError(f"mesh must be auto, none or sizes such as seed=4,task=2, got {text!r}")
    sizes = {SEED: 1, TASK: 1, match["first"]: int(match["m"])}
    if match["second"]:
        sizes[match["second"]] = int(match["n"])
    return sizes[SEED], sizes[TASK]


def _misfit(sizes: tuple[int, int], devices: int, num_seeds: int, num_tasks: int) -> str | None:
    """Why a mesh is invalid, or None if it is valid."""
    seed, task = sizes
    if seed * task != devices:
        return f"has {seed * task} device(s) instead of {devices}"
    if num_seeds % seed:
        return f"does not divide {num_seeds} seed(s)"
    return f"does not divide num_tasks={num_tasks}" if num_tasks % task else None


def choose(text: str, devices: int, num_seeds: int, num_tasks: int) -> tuple[int, int]:
    """The mesh sizes for the value of the option ``mesh``.

    Args:
        text: "auto": as many devices along the seeds as divide them, the rest along the tasks; "none": a
            single device; or sizes such as "seed=4,task=2", where one of the two may be left out.
        devices: number of devices of all processes.
        num_seeds: number of seeds.
        num_tasks: number of tasks per iteration.

    Returns:
        (seed, task) sizes; (1, 1) for one device.

    Raises:
        ValueError: if the mesh is invalid; one line that lists the valid ones.
    """
    if text == "none":
        return 1, 1
    fits = fitting(devices, num_seeds, num_tasks)
    if text == "auto":
        if fits:
            return fits[0]
        fault = f"no mesh of {devices} devices divides {num_seeds} seed(s) and num_tasks={num_tasks}"
    else:
        sizes = _sizes(text)
        if sizes in fits:
            return sizes
        fault = f"mesh {text} {_misfit(sizes, devices, num_seeds, num_tasks)}"
    names = " or ".join(f"{SEED}={seed},{TASK}={task}" for seed, task in fits)
    raise ValueError(
        f"{fault}; valid: {names}" if fits else f"{fault}; change seeds or num_tasks, or use --mesh none"
    )


def make_mesh(text: str, num_seeds: int, num_tasks: int) -> Mesh | None:
    """The mesh over the devices of all processes, or None for a single device.

    Raises:
        ValueError: as ``choose``, and for "none" with several processes.
    """
    if text == "none" and jax.process_count() > 1:
        raise ValueError(f"mesh none uses one device, but there are {jax.process_count()} processes")
    sizes = choose(text, jax.device_count(), num_seeds, num_tasks)
    if math.prod(sizes) == 1:
        return None
    return jax.make_mesh(sizes, (SEED, TASK), axis_types=(AxisType.Auto, AxisType.Auto))


def over_tasks(mesh: Mesh | None) -> Constrain:
    """Sharding constraint on pytrees with leaves (N, ...), along the tasks. Without a mesh: the identity."""
    if mesh is None:
        return anywhere
    cut = NamedSharding(mesh, PartitionSpec(TASK))
    return lambda tree: jax.lax.with_sharding_constraint(tree, cut)


def _by_seed(mesh: Mesh, num_seeds: int) -> NamedSharding:
    """Sharding by seed; each seed's arrays are replicated over the devices of the task axis."""
    return NamedSharding(mesh, PartitionSpec(SEED) if num_seeds > 1 else PartitionSpec())


def of_state(mesh: Mesh, state: MetaState, num_seeds: int) -> MetaState:
    """The sharding of each leaf of a run's state: by seed, replicated over the task axis.

    This includes the replay. If it were sharded along its rows, XLA (jaxlib 0.10) would gather all of it to
    write a batch.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda _: _by_seed(mesh, num_seeds), state)._replace(iteration=whole)


def _whole(mesh: Mesh, tree: Any) -> Any:
    """Replicates each array on every device, and therefore in every process."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def placement(config: Config) -> Placement:
    """The placement for a configuration's option ``mesh``.

    Raises:
        ConfigError: if the mesh is invalid; one line.
    """
    try:
        mesh = make_mesh(config.mesh, len(config.plan), config.num_tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if mesh is None:
        return ONE_DEVICE
    return Placement(
        devices=mesh.size,
        task_devices=mesh.shape[TASK],
        seed_axis=SEED,
        tasks=over_tasks(mesh),
        output=lambda function: place_output(function, mesh),
        train=lambda train, num_seeds: place(train, mesh, num_seeds),
        mesh=mesh,
    )


def place_output(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The same function with its results replicated on every device, so that every process can read them."""
    return function if mesh is None else lambda *args: _whole(mesh, function(*args))


def place(train: Train, mesh: Mesh | None, num_seeds: int) -> Train:
    """The same training on a mesh: states are sharded by ``of_state``, metrics replicated on every device."""
    if mesh is None:
        return train

    def placed(state: MetaState) -> MetaState:
        return jax.lax.with_sharding_constraint(state, of_state(mesh, state, num_seeds))

    def chunk(state: MetaState, n: Array) -> tuple[MetaState, Metrics]:
        state, metrics = train.chunk(state, n)
        return placed(state), _whole(mesh, metrics)

    return Train(lambda *runs: placed(train.init(*runs)), chunk, train.chunk_length)


def placed_shapes(mesh: Mesh | None, shapes: MetaState, num_seeds: int) -> MetaState:
    """Shapes of a state (``jax.eval_shape`` of init) with their shardings, for ``checkpoint.restore``."""
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        of_state(mesh, shapes, num_seeds),
    )


def place_seeds(mesh: Mesh | None, tree: Any, num_seeds: int) -> Any:
    """Shards a pytree with leaves (R, ...), R seeds, by seed. Must be called within jit."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, _by_seed(mesh, num_seeds))


def placed_seeds(mesh: Mesh | None, shapes: Any, num_seeds: int) -> Any:
    """The shapes of a pytree with leaves (R, ...), R seeds, with shardings by seed."""
    if mesh is None:
        return shapes
    where = _by_seed(mesh, num_seeds)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)
