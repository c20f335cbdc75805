"""Tasks at even distances over the range of a family."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.tasks import TaskFamily
from roml_jax.types import Array

_DRAWS = 10_000  # of the prior, where the range has no end
_RARE = 1e-3  # of the prior's mass is left out at each such end
_FINITE = 64  # a family with no more tasks than this has them all in its grid


def grid(family: TaskFamily, n: int) -> Array:
    """Tasks (m, d), m <= n where that is possible, evenly spaced in the family's unit space.

    So factors are spaced by ratios. One dimension: a line. Two: a square grid. More: a line along each
    dimension, the others at the prior's median. A range without end stops where a thousandth of
    the prior is left. Of a family with few tasks the grid has each once.

    Args:
        family: whose range.
        n: how many tasks at most, but for the least that makes a grid.
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
        low, middle, high = np.quantile(drawn, [_RARE, 0.5, 1 - _RARE], axis=0)
    if dims <= 2:
        side = max(2, int(n ** (1 / dims) + 1e-9))
        axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
        u = np.array(list(itertools.product(*axes)))
    else:
        side = max(2, n // dims)
        u = np.tile(middle, (dims, side, 1))
        for i in range(dims):
            u[i, :, i] = np.linspace(low[i], high[i], side)
        u = u.reshape(-1, dims)
    return family.decode(jnp.asarray(u, drawn.dtype))
