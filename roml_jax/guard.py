"""A seed that diverges is frozen at its last good state; the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from roml_jax.agents.base import Storage
from roml_jax.types import Array, Metrics

EXPLODED = 1e8
"""A loss above this counts as diverged."""
_OVERFLOWS = 1e30  # parameters above this count as diverged: their square overflows float32


def _split(learner: Any, storage: Storage | None) -> tuple[Any, Any]:
    """A learner's state without its experience, and the experience."""
    return (learner, ()) if storage is None else (storage.put(learner, ()), storage.take(learner))


def is_well(learner: Any, metrics: Metrics) -> Array:
    """Whether everything that was learned is finite and no loss has exploded, () bool.

    A loss that was not computed is NaN and does not count.
    """
    floats = [x for x in jax.tree.leaves(learner) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [(abs(x) < _OVERFLOWS).all() for x in floats]
    small = [~(abs(value) > EXPLODED) for name, value in metrics.items() if name.endswith("loss")]
    return jnp.stack([*finite, *small]).all()


def guarded(
    iteration: Callable[[Any], tuple[Any, Metrics]], storage: Storage | None
) -> Callable[[Any], tuple[Any, Metrics]]:
    """The same iteration of a ``MetaState``, in which a seed that diverges keeps its state before that.

    The experience that the learner keeps is not restored, since choosing between two would copy it.

    Args:
        iteration: (MetaState) -> (MetaState, metrics).
        storage: where the learner keeps experience.
    """

    def run(before: Any) -> tuple[Any, Metrics]:
        after, metrics = iteration(before)
        learned, experience = _split(after.learner, storage)
        well = (before.stopped < 0) & is_well(learned, metrics)
        old = (_split(before.learner, storage)[0], before.sampler)
        learner, sampler = jax.tree.map(
            lambda new, old: jnp.where(well, new, old), (learned, after.sampler), old
        )
        # metrics of a frozen seed mean nothing
        metrics = {name: jnp.where(well, value, jnp.nan) for name, value in metrics.items()}
        metrics["train/stopped"] = 1.0 - well
        stopped = jnp.where((before.stopped < 0) & ~well, before.iteration, before.stopped)
        if storage is not None:
            learner = storage.put(learner, experience)
        return after._replace(learner=learner, sampler=sampler, stopped=stopped), metrics

    return run
