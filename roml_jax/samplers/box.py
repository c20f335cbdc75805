"""What DORAEMON, AutoDR and the oracle share: tasks in the unit box; thresholds that only a user can know."""

from __future__ import annotations

import jax.numpy as jnp

from roml_jax.proposals import UnitBox
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array

MARGIN = 1e-6  # the ends of the box may be infinite tasks


def inside(v: Array) -> Array:
    """Points of the unit box, kept off its ends."""
    return jnp.clip(v, MARGIN, 1 - MARGIN)


def unit_box(family: TaskFamily, sampler: str) -> UnitBox:
    """The map between a family's u and the unit box.

    Raises:
        ValueError: for a family whose prior has no quantiles, such as a finite set of tasks; one line.
    """
    if family.proposal.box is None:
        raise ValueError(
            f"sampler={sampler} needs a prior with quantiles (the proposal's box), which a finite set of "
            f"tasks does not have; {', '.join(family.names)}: use sampler=cem"
        )
    return family.proposal.box


def threshold(sampler: str, option: str, value: float | None, meaning: str) -> float:
    """A return that the user must give.

    Args:
        sampler: name of the sampler.
        option: name of the option.
        value: the option's value; None if it was not given.
        meaning: what tasks with this return are, for the message.

    Raises:
        ValueError: if it was not given; one line.
    """
    if value is None:
        raise ValueError(
            f"sampler={sampler} needs sampler.{option}: {meaning}. It is in the sum over a "
            "task's episodes; to find a value, train with sampler=uniform, take the return per episode that "
            "half of its tasks reach (near the metric train/return_mean), and multiply it by the episodes"
        )
    return value
