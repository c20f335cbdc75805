"""Which device computes what: a mesh over ("seed", "task"), and where the arrays of a run live on it.

The program stays that of one device: arrays are global, a few constraints say how they are cut, and
XLA's partitioner puts the communication between them. Results are those of one device but for the
order of float additions.
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
    """All (seed, task) meshes of so many devices that divide seeds and tasks, most seeds first."""
    pairs = ((size, devices // size) for size in range(devices, 0, -1) if devices % size == 0)
    return [(seed, task) for seed, task in pairs if num_seeds % seed == 0 and num_tasks % task == 0]


def _sizes(text: str) -> tuple[int, int]:
    """(seed, task) as written; an axis that is left out has size 1."""
    match = _AXES.fullmatch(text.replace(" ", ""))
    if match is None or match["first"] == match["second"]:
        raise ValueError(f"mesh must be auto, none or like seed=4,task=2, got {text!r}")
    sizes = {SEED: 1, TASK: 1, match["first"]: int(match["m"])}
    if match["second"]:
        sizes[match["second"]] = int(match["n"])
    return sizes[SEED], sizes[TASK]


def _misfit(sizes: tuple[int, int], devices: int, num_seeds: int, num_tasks: int) -> str | None:
    """Why a mesh cannot be, or None."""
    seed, task = sizes
    if seed * task != devices:
        return f"is {seed * task} device(s) of {devices}"
    if num_seeds % seed:
        return f"does not divide {num_seeds} seed(s)"
    return f"does not divide num_tasks={num_tasks}" if num_tasks % task else None


def choose(text: str, devices: int, num_seeds: int, num_tasks: int) -> tuple[int, int]:
    """The mesh that a user's words mean.

    Args:
        text: "auto": as many devices on the seeds as divide them, the rest on the tasks; "none": one
            device alone; or sizes, "seed=4,task=2", of which one may be left out.
        devices: how many there are, over all processes.
        num_seeds: S.
        num_tasks: N per iteration.

    Returns:
        (seed, task) sizes; (1, 1) for one device.

    Raises:
        ValueError: for a mesh that cannot be; one line that names those that can.
    """
    if text == "none":
        return 1, 1
    fits = fitting(devices, num_seeds, num_tasks)
    if text == "auto":
        if fits:
            return fits[0]
        wrong = f"no mesh of {devices} devices divides {num_seeds} seed(s) and num_tasks={num_tasks}"
    else:
        sizes = _sizes(text)
        if sizes in fits:
            return sizes
        wrong = f"mesh {text} {_misfit(sizes, devices, num_seeds, num_tasks)}"
    names = " or ".join(f"{SEED}={seed},{TASK}={task}" for seed, task in fits)
    raise ValueError(
        f"{wrong}; what fits: {names}" if fits else f"{wrong}; change seeds or num_tasks, or --mesh none"
    )


def make_mesh(text: str, num_seeds: int, num_tasks: int) -> Mesh | None:
    """The mesh over all processes' devices, or None where one device computes everything.

    Raises:
        ValueError: as ``choose``, and for "none" where there are several processes.
    """
    if text == "none" and jax.process_count() > 1:
        raise ValueError(f"mesh none is one device, and there are {jax.process_count()} processes")
    sizes = choose(text, jax.device_count(), num_seeds, num_tasks)
    if math.prod(sizes) == 1:
        return None
    return jax.make_mesh(sizes, (SEED, TASK), axis_types=(AxisType.Auto, AxisType.Auto))


def over_tasks(mesh: Mesh | None) -> Constrain:
    """A constraint on pytrees with leaves (N, ...): cut along the tasks. The identity without a mesh."""
    if mesh is None:
        return anywhere
    cut = NamedSharding(mesh, PartitionSpec(TASK))
    return lambda tree: jax.lax.with_sharding_constraint(tree, cut)


def _by_seed(mesh: Mesh, num_seeds: int) -> NamedSharding:
    """Seeds on their own devices, whole on each of these."""
    return NamedSharding(mesh, PartitionSpec(SEED) if num_seeds > 1 else PartitionSpec())


def of_state(mesh: Mesh, state: MetaState, num_seeds: int) -> MetaState:
    """Where each leaf of a run's state lives: seeds on their own devices, whole on each of these.

    The replay too: cut along its rows, XLA (jaxlib 0.10) would gather all of it to write a batch.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda _: _by_seed(mesh, num_seeds), state)._replace(iteration=whole)


def _whole(mesh: Mesh, tree: Any) -> Any:
    """Every device, and so every process, has the whole of each array."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def placement(config: Config) -> Placement:
    """The placement that a configuration's ``mesh`` asks for.

    Raises:
        ConfigError: for a mesh that cannot be; one line.
    """
    try:
        mesh = make_mesh(config.mesh, len(config.plan), config.num_tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if mesh is None:
        return ONE_DEVICE
    return Placement(
        devices=mesh.size,
        seed_axis=SEED,
        tasks=over_tasks(mesh),
        output=lambda function: place_output(function, mesh),
        train=lambda train, num_seeds: place(train, mesh, num_seeds),
        mesh=mesh,
    )


def place_output(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The same function with its results whole on every device, so that every process can read them."""
    return function if mesh is None else lambda *args: _whole(mesh, function(*args))


def place(train: Train, mesh: Mesh | None, num_seeds: int) -> Train:
    """The same run on a mesh: states cut as ``of_state`` says, metrics whole on every device."""
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
    """What there is of every run, leaves (R, ...), where the runs are; within jit."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, _by_seed(mesh, num_seeds))


def placed_seeds(mesh: Mesh | None, shapes: Any, num_seeds: int) -> Any:
    """Shapes of what there is of every run, leaves (R, ...), with their shardings."""
    if mesh is None:
        return shapes
    where = _by_seed(mesh, num_seeds)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)
