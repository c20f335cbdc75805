"""The state that a run starts from: a new one, or that of its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import experiment, meta
from roml_jax._version import __version__
from roml_jax.config import check_same, seed_plan
from roml_jax.errors import ConfigError
from roml_jax.run import best as best_learners
from roml_jax.run import checkpoint, sharding


class Plan(NamedTuple):
    """The part of a run's configuration that determines its state.

    Attributes:
        seeds: the seeds of the program.
        options: every option by dotted name, as saved in checkpoints.
        validates: whether the run is evaluated during training.
    """

    seeds: tuple[seed_plan.Seed, ...]
    options: dict[str, Any]
    validates: bool


class State(NamedTuple):
    """The state of a run between two chunks.

    Attributes:
        meta: the MetaState of all seeds.
        best: the best learners so far; None if the run is not evaluated during training.
        done: number of iterations done.
        seconds: training time so far, in seconds.
    """

    meta: meta.MetaState
    best: best_learners.Best | None
    done: int
    seconds: float


def shapes_of(parts: experiment.Experiment, plan: Plan) -> meta.MetaState:
    """The shapes of a run's MetaState; nothing is computed."""
    return jax.eval_shape(parts.train.init, *seed_plan.leaves(plan.seeds))


def restored(
    parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState, folder: Path
) -> tuple[State | None, str]:
    """Reads the state of a run's last checkpoint.

    Args:
        parts: the run's functions.
        plan: the run's plan.
        shapes: shapes of the run's MetaState.
        folder: the run's ``checkpoint`` folder.

    Returns:
        The state, or None if there is no checkpoint; and text for the user that follows "resumes".

    Raises:
        ConfigError: if the checkpoint is damaged, or has another configuration or version; one line.
    """
    path, num_seeds, mesh = checkpoint.latest(folder), len(plan.seeds), parts.placement.mesh
    if path is None:
        return None, "from the start: there is no checkpoint"
    try:
        about = checkpoint.about(path)
        checkpoint.check_version(path, about, __version__)
        check_same(about["config"], plan.options, str(path))
        state = checkpoint.restore(path, "state", sharding.placed_shapes(mesh, shapes, num_seeds))
        best = None
        if plan.validates:
            start = best_learners.start(parts.learner.acting(shapes.learner), num_seeds)
            snapshots = sharding.placed_seeds(mesh, start, num_seeds)._asdict()
            best = best_learners.Best(
                **{name: checkpoint.restore(path, f"best_{name}", like) for name, like in snapshots.items()}
            )
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from None
    same = (about["jax"], about["backend"]) == (jax.__version__, jax.default_backend())
    note = "" if same else f" (saved by jax {about['jax']} on {about['backend']}: not bit-identical)"
    return State(state, best, about["iteration"], about["seconds"]), f"from iteration {path.name}{note}"


def started(parts: experiment.Experiment, plan: Plan) -> State:
    """A new run's state."""
    state = jax.jit(parts.train.init)(*seed_plan.leaves(plan.seeds))
    best = None
    if plan.validates:
        num_seeds = len(plan.seeds)

        @jax.jit
        def start(acting: Any) -> best_learners.Best:
            # copy: the next chunk overwrites the state's buffers
            copied = best_learners.start(jax.tree.map(jnp.copy, acting), num_seeds)
            return sharding.place_seeds(parts.placement.mesh, copied, num_seeds)

        best = start(parts.learner.acting(state.learner))
    return State(state, best, 0, 0.0)
