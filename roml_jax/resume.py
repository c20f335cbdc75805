"""Where a run begins: at its beginning, or where its last checkpoint left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import roml_jax
from roml_jax import best as best_lib
from roml_jax import checkpoint, experiment, meta, runs, sharding
from roml_jax import folder as folder_lib
from roml_jax.config import FREE, Config, ConfigError, to_mapping
from roml_jax.presets import check_same


class State(NamedTuple):
    """What a run is between two chunks.

    Attributes:
        meta: of all its seeds.
        best: the best learners so far; None where nothing is evaluated.
        done: iterations made.
        seconds: of training.
    """

    meta: meta.MetaState
    best: best_lib.Best | None
    done: int
    seconds: float


def restored(
    config: Config, parts: experiment.Experiment, shapes: meta.MetaState, folder: Path
) -> tuple[State | None, str]:
    """The state that a run goes on from, None where it had saved none; and a line for the user.

    Raises:
        ConfigError: if the checkpoint is damaged or another configuration's or version's; one line.
    """
    path = checkpoint.latest(folder / folder_lib.CHECKPOINT)
    if path is None:
        return None, "it had saved no checkpoint: from the start"
    try:
        about = checkpoint.about(path)
        if about["version"] != roml_jax.__version__:
            raise ConfigError(
                f"{path} was written by roml_jax {about['version']}, and this is {roml_jax.__version__}"
            )
        check_same(about["config"], to_mapping(config), FREE, str(path))
        placed = sharding.placed_shapes(parts.mesh, shapes, len(config.runs))
        state = checkpoint.restore(path, "state", placed)
        best = None
        if config.eval.every(config.num_tasks):
            start = best_lib.start(parts.learner.acting(shapes.learner), len(config.runs))
            snapshots = sharding.placed_runs(parts.mesh, start, len(config.runs))._asdict()
            best = best_lib.Best(
                **{name: checkpoint.restore(path, f"best_{name}", like) for name, like in snapshots.items()}
            )
    except checkpoint.CheckpointError as error:
        raise ConfigError(str(error)) from None
    same = (about["jax"], about["backend"]) == (jax.__version__, jax.default_backend())
    told = "" if same else f" (then jax {about['jax']} on {about['backend']}: not bit for bit)"
    return State(state, best, about["iteration"], about["seconds"]), f"from iteration {path.name}{told}"


def started(config: Config, parts: experiment.Experiment) -> State:
    """A new run's state."""
    state = jax.jit(parts.train.init)(*runs.leaves(config.runs))
    best = None
    if config.eval.every(config.num_tasks):
        num_runs = len(config.runs)

        @jax.jit
        def start(acting: Any) -> best_lib.Best:
            # copies: the next chunk writes where the state is
            copied = best_lib.start(jax.tree.map(jnp.copy, acting), num_runs)
            return sharding.place_runs(parts.mesh, copied, num_runs)

        best = start(parts.learner.acting(state.learner))
    return State(state, best, 0, 0.0)
