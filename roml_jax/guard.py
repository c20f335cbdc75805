"""Freezes a seed that diverges at its last finite state; the other seeds continue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from roml_jax.agents.base import Storage
from roml_jax.types import Array, Metrics, Table

EXPLODED = 1e8
"""A loss above this counts as diverged."""
_OVERFLOWS = 1e30  # parameters above this count as diverged: their square overflows float32


def _split(learner: Any, storage: Storage | None) -> tuple[Any, Any]:
    """Returns (a learner's state without its stored experience, the experience)."""
    return (learner, ()) if storage is None else (storage.put(learner, ()), storage.take(learner))


def is_well(learner: Any, metrics: Metrics) -> Array:
    """Whether the learner's state is finite and no loss exceeds ``EXPLODED``, () bool.

    A loss that was not computed is NaN and is ignored.
    """
    floats = [x for x in jax.tree.leaves(learner) if jnp.issubdtype(x.dtype, jnp.floating)]
    # one vector: the compiler would repeat a check per leaf wherever its result is used
    learned = jnp.concatenate([x.ravel().astype(jnp.result_type(float)) for x in floats])
    losses = jnp.stack([value for name, value in metrics.items() if name.endswith("loss")] or [0.0])
    return (abs(learned) < _OVERFLOWS).all() & ~(abs(losses) > EXPLODED).any()


def guarded(
    iteration: Callable[[Any], tuple[Any, Metrics]], storage: Storage | None
) -> Callable[[Any], tuple[Any, Table]]:
    """Wraps an iteration so that a seed that diverges keeps its state from before the iteration.

    The learner's stored experience is not restored, since selecting between the old and the new one would
    copy it.

    Args:
        iteration: (MetaState) -> (MetaState, metrics).
        storage: where the learner's state holds experience; None for none.
    """

    def run(before: Any) -> tuple[Any, Table]:
        after, metrics = iteration(before)
        learned, experience = _split(after.learner, storage)
        well = (before.stopped < 0) & is_well(learned, metrics)
        old = (_split(before.learner, storage)[0], before.sampler)
        # a branch copies, where a choice per leaf would be a kernel per leaf
        learner, sampler = jax.lax.cond(well, lambda: (learned, after.sampler), lambda: old)
        metrics = metrics | {"train/stopped": 1.0 - well}
        # a frozen seed has no other meaningful metric
        shown = jnp.stack([well | (name == "train/stopped") for name in metrics])
        table = jax.tree.map(lambda values: jnp.where(shown, values, jnp.nan), Table.of(metrics))
        stopped = jnp.where((before.stopped < 0) & ~well, before.iteration, before.stopped)
        if storage is not None:
            learner = storage.put(learner, experience)
        return after._replace(learner=learner, sampler=sampler, stopped=stopped), table

    return run
