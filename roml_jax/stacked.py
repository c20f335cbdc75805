"""Pytrees packed into one array, and back.

A loop's step writes each of its results by a kernel of its own, and so does a choice, a slice or a gather of
several arrays. Packed, they are one: on a GPU, where an iteration's time is that of its launches, and for the
compiler.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax.types import Array


class _Layout(NamedTuple):
    """Structure of the tree; and of each leaf its shape after the first axis and its type, None if apart."""

    structure: Any
    places: tuple[tuple[tuple[int, ...], Any] | None, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["floats", "apart"], meta_fields=["layout"])
@dataclasses.dataclass(frozen=True)
class Packed:
    """A pytree whose floats and bools of shape (N, ...) are one array.

    Attributes:
        floats: (N, total) the floats of one type and, as 0 and 1, the bools.
        apart: the leaves of other types.
        layout: how to take it apart.
    """

    floats: Array
    apart: list[Array]
    layout: _Layout


def pack(tree: Any) -> Packed:
    """Packs a pytree with leaves (N, ...), at least one of them of floats, whose type is the array's."""
    leaves, structure = jax.tree.flatten(tree)
    dtype = next(leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))
    fits = [leaf.dtype in (dtype, jnp.dtype(bool)) for leaf in leaves]
    parts = [x.reshape(x.shape[0], -1).astype(dtype) for x, fit in zip(leaves, fits, strict=True) if fit]
    places = tuple((x.shape[1:], x.dtype) if fit else None for x, fit in zip(leaves, fits, strict=True))
    apart = [x for x, fit in zip(leaves, fits, strict=True) if not fit]
    return Packed(jnp.concatenate(parts, axis=1), apart, _Layout(structure, places))


def unpack(packed: Packed) -> Any:
    """The pytree; axes before the last of ``floats`` (T, N, total) come first in its leaves (T, N, ...)."""
    apart, leaves, begin = iter(packed.apart), [], 0
    for place in packed.layout.places:
        if place is None:
            leaves.append(next(apart))
            continue
        shape, dtype = place
        end = begin + math.prod(shape)
        part = packed.floats[..., begin:end]
        leaves.append(part.reshape(*part.shape[:-1], *shape).astype(dtype))
        begin = end
    return jax.tree.unflatten(packed.layout.structure, leaves)
