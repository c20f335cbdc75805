"""Where a run begins: at its beginning, or where its last checkpoint left it."""

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
    """What says how a run is computed.

    Attributes:
        seeds: that its program trains.
        options: every option by dotted name, as checkpoints keep them.
        validates: whether it is evaluated during training.
    """

    seeds: tuple[seed_plan.Seed, ...]
    options: dict[str, Any]
    validates: bool


class State(NamedTuple):
    """What a run is between two chunks.

    Attributes:
        meta: of all its seeds.
        best: the best learners so far; None where nothing is evaluated.
        done: iterations made.
        seconds: of training.
    """

    meta: meta.MetaState
    best: best_learners.Best | None
    done: int
    seconds: float


def shapes_of(parts: experiment.Experiment, plan: Plan) -> meta.MetaState:
    """The shapes of a run's state; nothing is computed."""
    return jax.eval_shape(parts.train.init, *seed_plan.leaves(plan.seeds))


def restored(
    parts: experiment.Experiment, plan: Plan, shapes: meta.MetaState, folder: Path
) -> tuple[State | None, str]:
    """The state that a run continues from, None if none was saved; and a line for the user.

    Args:
        parts: the run's functions.
        plan: the run's.
        shapes: of its state.
        folder: of its checkpoints.

    Raises:
        ConfigError: if the checkpoint is damaged or another configuration's or version's; one line.
    """
    path, num_seeds, mesh = checkpoint.latest(folder), len(plan.seeds), parts.placement.mesh
    if path is None:
        return None, "from the start: no checkpoint was saved"
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
    told = "" if same else f" (then jax {about['jax']} on {about['backend']}: not bit for bit)"
    return State(state, best, about["iteration"], about["seconds"]), f"from iteration {path.name}{told}"


def started(parts: experiment.Experiment, plan: Plan) -> State:
    """A new run's state."""
    state = jax.jit(parts.train.init)(*seed_plan.leaves(plan.seeds))
    best = None
    if plan.validates:
        num_seeds = len(plan.seeds)

        @jax.jit
        def start(acting: Any) -> best_learners.Best:
            # copies: the next chunk writes where the state is
            copied = best_learners.start(jax.tree.map(jnp.copy, acting), num_seeds)
            return sharding.place_seeds(parts.placement.mesh, copied, num_seeds)

        best = start(parts.learner.acting(state.learner))
    return State(state, best, 0, 0.0)
