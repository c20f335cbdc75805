"""Grids of tasks over the range of a task family."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.tasks import TaskFamily
from roml_jax.types import Array

_DRAWS = 10_000  # prior draws, to find the ends of an unbounded range and the tasks of a finite family
_RARE = 1e-3  # prior probability beyond each end of the grid, if the range is unbounded
_FINITE = 64  # if a family has at most this many tasks, the grid holds all of them


def grid(family: TaskFamily, n: int) -> Array:
    """A grid of tasks (m, d), evenly spaced in the space of the family's proposal.

    Scale factors are therefore spaced by ratios. With one dimension the grid is a line, with two a square
    grid. With more, it is one line along each dimension, with the other dimensions at the prior's median. If
    the range is unbounded, the grid leaves out a thousandth of the prior at each end. For a family with at
    most 64 tasks the grid holds each task once. A dimension with a finite set has each value that 10,000
    draws from the prior contain.

    Args:
        family: the task family.
        n: maximum number of tasks. The smallest grid, and that of a family with few tasks, may exceed it.
    """
    proposal = family.proposal
    drawn = np.asarray(proposal.sample(proposal.phi0, jax.random.key(0), _DRAWS))
    tasks = np.unique(np.asarray(family.decode(jnp.asarray(drawn))), axis=0)
    if len(tasks) <= _FINITE:
        return jnp.asarray(tasks)
    dims = drawn.shape[1]
    if proposal.uniform_prior:
        low, middle, high = np.zeros(dims), np.full(dims, 0.5), np.ones(dims)
    else:
        low, middle, high = np.quantile(drawn, [_RARE, 0.5, 1 - _RARE], axis=0, method="nearest")
    finite = {i: np.unique(drawn[:, i]) for i, is_index in enumerate(proposal.is_index) if is_index}
    sizes, others = [len(values) for values in finite.values()], dims - len(finite)
    each = (n / math.prod(sizes)) ** (1 / max(others, 1)), (n - sum(sizes)) / max(others, 1)
    side = max(2, int(each[dims > 2] + 1e-9))
    axes = [finite.get(i, np.linspace(low[i], high[i], side)) for i in range(dims)]
    if dims <= 2:
        u = np.array(list(itertools.product(*axes)))
    else:
        lines = [np.tile(middle, (len(axis), 1)) for axis in axes]
        for i, axis in enumerate(axes):
            lines[i][:, i] = axis
        u = np.concatenate(lines)
    return family.decode(jnp.asarray(u, drawn.dtype))
