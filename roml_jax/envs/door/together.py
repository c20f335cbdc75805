"""Values that cannot be where several task dimensions edit one field, at the corners of their ranges."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from roml_jax.envs.door import programs, rules
from roml_jax.envs.door import subject as subjects
from roml_jax.envs.door.rules import Change
from roml_jax.envs.door.subject import Subject

_MOST = 6  # dimensions whose corners are all tried; of more, as many corners at random


def _corners(count: int) -> np.ndarray:
    """(n, count) bool, which dimensions are at their high end; all low and all high among them."""
    if count <= _MOST:
        return np.array(list(itertools.product((False, True), repeat=count)))
    return subjects.corners(count, 2**_MOST)


def impossible(subject: Subject, changes: Sequence[Change]) -> Iterator[tuple[bool, str]]:
    """Values of fields that more than one dimension edits, such as a mass that is scaled and added to.

    Edits of ``TaskDimension`` are linear in each of their dimensions, but for directions, so the extreme
    values are at corners.

    Args:
        subject: what is checked.
        changes: its edits; each is possible by itself.

    Yields:
        (whether it is an error, one line on the first corner of a field).
    """
    by_field: dict[str, list[Change]] = {}
    for change in changes:
        by_field.setdefault(change.field, []).append(change)
    shared = {field: own for field, own in by_field.items() if len({one.dimension for one in own}) > 1}
    if not shared:
        return
    names, bounds = subject.family.names, subjects.ends(subject.family)
    middle = programs.run(lambda: subject.family.decode(jnp.full(subject.family.proposal.dims, 0.5)))
    for field, own in shared.items():
        dimensions = [name for name in names if name in {one.dimension for one in own}]
        at = [names.index(name) for name in dimensions]
        tasks = np.tile(np.asarray(middle, np.float32), (2 ** min(len(at), _MOST), 1))
        tasks[:, at] = np.where(_corners(len(at)), bounds[at, 1], bounds[at, 0])
        mask = functools.reduce(operator.or_, (one.mask for one in own))
        values = subjects.fields(subject, tasks)[field]
        for task, value in zip(tasks, values, strict=True):
            change = Change(" and ".join(dimensions), field, mask, value, value, own[0].listed, own[0].inert)
            found = rules.impossible_at(subject.compiled, change, value)
            if found:
                corner = ", ".join(f"{names[i]}={task[i]:.4g}" for i in at)
                yield from ((is_error, f"task {corner}: {text}") for is_error, text in found)
                break
