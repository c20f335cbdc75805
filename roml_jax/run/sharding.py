"""Several devices: a mesh with axes ("seed", "task"), and the shardings of a run's arrays on it.

Arrays are global. On a mesh of seeds alone, every device runs the program of its own seeds (``shard_map``):
nothing is communicated during a chunk. On a mesh that also divides the tasks, the program is that of one
device: a few constraints set the shardings, and XLA's partitioner inserts the communication. In both cases
XLA may fuse operations otherwise than on one device, so that results differ by rounding.
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
from roml_jax.types import Array, Table

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


def devices_of(text: str) -> int:
    """The number of devices of a mesh whose sizes are given, e.g. "seed=4,task=2".

    Raises:
        ValueError: if the text has no sizes; one line.
    """
    return math.prod(_sizes(text))


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


def _of_leaves(mesh: Mesh, tree: Any, num_seeds: int) -> Any:
    """The sharding of each leaf (R, ...): by seed; XLA replicates arrays without elements."""
    whole = NamedSharding(mesh, PartitionSpec())
    by_seed = NamedSharding(mesh, PartitionSpec(SEED)) if num_seeds > 1 else whole
    return jax.tree.map(lambda leaf: by_seed if leaf.size else whole, tree)


def of_state(mesh: Mesh, state: MetaState, num_seeds: int) -> MetaState:
    """The sharding of each leaf of a run's state: by seed, replicated over the task axis.

    This includes the replay. If it were sharded along its rows, XLA (jaxlib 0.10) would gather all of it to
    write a batch.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return _of_leaves(mesh, state, num_seeds)._replace(iteration=whole)


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
    return ONE_DEVICE if mesh is None else on_mesh(mesh)


def on_mesh(mesh: Mesh) -> Placement:
    """The placement for a mesh with the axes ("seed", "task"), also of devices that are only described."""
    if mesh.shape[TASK] == 1:
        return Placement(
            devices=mesh.size,
            output=lambda of, num_seeds: apart_output(of, mesh, num_seeds),
            train=lambda of, num_seeds: apart(of, mesh, num_seeds),
            mesh=mesh,
        )
    return Placement(
        devices=mesh.size,
        task_devices=mesh.shape[TASK],
        seed_axis=SEED,
        tasks=over_tasks(mesh),
        output=lambda of, num_seeds: place_output(of(num_seeds), mesh),
        train=lambda of, num_seeds: place(of(num_seeds), mesh, num_seeds),
        mesh=mesh,
    )


def place_output(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The same function with its results replicated on every device, so that every process can read them."""
    return function if mesh is None else lambda *args: _whole(mesh, function(*args))


def place(train: Train, mesh: Mesh, num_seeds: int) -> Train:
    """The same training on a mesh: states are sharded by ``of_state``, metrics replicated on every device."""

    def placed(state: MetaState) -> MetaState:
        return jax.lax.with_sharding_constraint(state, of_state(mesh, state, num_seeds))

    def chunk(state: MetaState, n: Array) -> tuple[MetaState, Table]:
        state, metrics = train.chunk(state, n)
        return placed(state), _whole(mesh, metrics)

    return Train(lambda *runs: placed(train.init(*runs)), chunk, train.chunk_length)


def _map(tree: Any, change: Callable[[Array], Array]) -> Any:
    """Changes the leaves that have an axis of seeds: all, but for the iteration of a ``MetaState``."""
    if isinstance(tree, MetaState):
        without = jax.tree.map(change, tree._replace(iteration=None))
        return without._replace(iteration=tree.iteration)
    return jax.tree.map(change, tree)


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one seed, as a function of pytrees whose leaves have an axis of one seed.

    The first result, or the only one, gets the axis.
    """

    def on_axis(tree: Any, *args: Any) -> Any:
        result = function(_map(tree, lambda x: x[0]), *args)
        if isinstance(tree, MetaState):
            state, *others = result
            return _map(state, lambda x: x[None]), *others
        return _map(result, lambda x: x[None])

    return on_axis


def _apart(of: Callable[[int], Callable[..., Any]], mesh: Mesh, num_seeds: int, specs: Any) -> Any:
    """The function for all seeds, run by every device for its own seeds.

    Args:
        of: number of seeds -> the function for so many; for one seed, its arrays have no axis of seeds.
        mesh: of seeds alone.
        num_seeds: number of all seeds.
        specs: (of the arguments, of the results).
    """
    seeds = num_seeds // mesh.shape[SEED]
    function = of(seeds) if seeds > 1 else _alone(of(1))
    return jax.shard_map(function, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)


def apart(train_of: Callable[[int], Train], mesh: Mesh, num_seeds: int) -> Train:
    """The training of all seeds, each of whose devices trains its own seeds."""
    by_seed, whole = PartitionSpec(SEED), PartitionSpec()
    state = MetaState._make((by_seed, by_seed, by_seed, by_seed, whole))  # iteration: the same for all seeds
    specs = (state, whole), (state, PartitionSpec(None, SEED))
    alike = place(train_of(num_seeds), mesh, num_seeds)
    chunk = _apart(lambda seeds: train_of(seeds).chunk, mesh, num_seeds, specs)

    def placed(state: MetaState, n: Array) -> tuple[MetaState, Table]:
        state, metrics = chunk(state, n)
        return state, _whole(mesh, metrics)

    return Train(alike.init, placed, alike.chunk_length)


def apart_output(of: Callable[[int], Callable[..., Any]], mesh: Mesh, num_seeds: int) -> Callable[..., Any]:
    """A function of all seeds' learners, run by every device for its own; its results are replicated.

    Further arguments of the function are the same for all seeds.
    """
    by_seed = PartitionSpec(SEED)

    def output(learner: Any, *shared: Any) -> Any:
        specs = (by_seed, *(PartitionSpec() for _ in shared)), by_seed
        return _apart(of, mesh, num_seeds, specs)(learner, *shared)

    return place_output(output, mesh)


def placed_shapes(mesh: Mesh | None, shapes: MetaState, num_seeds: int) -> MetaState:
    """Shapes of a state (``jax.eval_shape`` of init) with their shardings, for ``checkpoint.restore``."""
    if mesh is None:
        return shapes
    return _with(shapes, of_state(mesh, shapes, num_seeds))


def _with(shapes: Any, shardings: Any) -> Any:
    """The shapes with their shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def place_seeds(mesh: Mesh | None, tree: Any, num_seeds: int) -> Any:
    """Shards a pytree with leaves (R, ...), R seeds, by seed. Must be called within jit."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, _of_leaves(mesh, tree, num_seeds))


def placed_seeds(mesh: Mesh | None, shapes: Any, num_seeds: int) -> Any:
    """The shapes of a pytree with leaves (R, ...), R seeds, with shardings by seed."""
    return shapes if mesh is None else _with(shapes, _of_leaves(mesh, shapes, num_seeds))
