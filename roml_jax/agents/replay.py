"""A replay buffer on the device: a ring of whole trajectories.

It is not taken from a library for two reasons. The reference draws without replacement and goes back to row
0 when a batch does not fit before the end. And the buffer is the largest array in memory, so it must be
updated in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.types import Array


class Replay(NamedTuple):
    """Trajectories with leaves (capacity, ...), of which the first ``size`` rows are filled.

    Attributes:
        rows: pytree of arrays (capacity, ...).
        cursor: () row that the next batch is written to.
        size: () number of filled rows.
    """

    rows: Any
    cursor: Array
    size: Array


def init(capacity: int, row: Any) -> Replay:
    """An empty ring for rows shaped like ``row`` (arrays or ShapeDtypeStructs)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(replay: Replay, batch: Any) -> Replay:
    """Writes a batch (n, ...) at the cursor, or at row 0 if it does not fit before the end."""
    leaves = jax.tree.leaves(batch)
    n, capacity = leaves[0].shape[0], jax.tree.leaves(replay.rows)[0].shape[0]
    start = jnp.where(replay.cursor + n > capacity, 0, replay.cursor)

    def write(rows: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(rows, new.astype(rows.dtype), start, axis=0)

    rows = jax.tree.map(write, replay.rows, batch)
    return Replay(rows, start + n, jnp.maximum(replay.size, start + n))


def sample_indices(size: Array, key: Array, n: int) -> Array:
    """Draws n distinct rows below ``size``, uniformly (Floyd's algorithm).

    If fewer than n rows are filled, every filled row is drawn and some are repeated.
    """
    last = jnp.maximum(size - n + jnp.arange(n), 0)
    candidate = jnp.minimum((jax.random.uniform(key, (n,)) * (last + 1)).astype(jnp.int32), last)
    # Floyd draws a candidate or, if it is drawn already, the last row. It is drawn already if it is an
    # earlier candidate, or the last row of an earlier draw that drew that. All at once: on a GPU, a turn of a
    # loop is a launch.
    position = jnp.arange(n)
    drawn = ((candidate[:, None] == candidate[None]) & (position[None] < position[:, None])).any(axis=1)
    draw = candidate - (size - n)  # whose last row a candidate is
    link = jnp.where((draw >= 0) & (draw < position), draw, position)
    for _ in range(n.bit_length()):  # after k rounds, links over 2^k draws are followed
        drawn, link = drawn | drawn[link], link[link]
    return jnp.where(drawn, last, candidate)


def sample(replay: Replay, key: Array, n: int) -> Any:
    """Draws n distinct rows, uniformly."""
    index = sample_indices(replay.size, key, n)
    return jax.tree.map(lambda rows: rows[index], replay.rows)
