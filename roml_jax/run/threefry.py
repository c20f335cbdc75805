"""JAX's default random bits (Threefry 2x32) on CPUs as one kernel per draw, which compiles and runs faster.

JAX computes the 20 rounds in a loop on CPUs, which XLA compiles as a dozen kernels for every draw. A training
program has about thirty draws, and a learner's initial state about sixty. The bits are the same.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import export, lax
from jax import numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from roml_jax.types import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _constant(n: int, like: Array) -> Array | np.ndarray:
    """An array of one number.

    NumPy's: an operation of JAX on constants alone would be compiled by itself, and executed, where this is
    lowered within ``jax.ensure_compile_time_eval``. An exported policy has a size that is a symbol.
    """
    if any(export.is_symbolic_dim(size) for size in like.shape):
        return lax.full_like(like, n)
    return np.broadcast_to(np.asarray(n, like.dtype), like.shape)


def _hash(key_1: Array, key_2: Array, x: Array, y: Array) -> Array:
    """The Threefry 2x32 hash of counters (x, y) uint32: one uint64, x's bits above y's.

    One result, because XLA would compile and compute the rounds once for each of two. Written in ``lax``,
    since ``jnp`` takes five times as long to trace.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    shape = jnp.broadcast_shapes(key_1.shape, key_2.shape, x.shape, y.shape)
    key_1, key_2, x, y = (jnp.broadcast_to(part, shape) for part in (key_1, key_2, x, y))
    const = {n: _constant(n, x) for n in {_PARITY, *range(1, 6)}}
    turn = {r: (_constant(r, x), _constant(32 - r, x)) for r in sum(_ROTATIONS, ())}
    keys = (key_1, key_2, key_1 ^ key_2 ^ const[_PARITY])
    x, y = lax.add(x, keys[0]), lax.add(y, keys[1])
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            left, right = turn[rotation]
            x = lax.add(x, y)
            turned = lax.bitwise_or(lax.shift_left(y, left), lax.shift_right_logical(y, right))
            y = lax.bitwise_xor(x, turned)
        x = lax.add(x, keys[(i + 1) % 3])
        y = lax.add(lax.add(y, keys[(i + 2) % 3]), const[i + 1])
    x, y = (lax.convert_element_type(part, jnp.uint64) for part in (x, y))
    return lax.bitwise_or(lax.shift_left(x, _constant(32, x)), y)


_hash_jitted = jax.jit(_hash)


def hash_2x32(key_1: Array, key_2: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """As the primitive ``threefry2x32``: two uint32 arrays of the arguments' common shape."""
    with jax.enable_x64(True):
        # a call: XLA would fuse an inlined hash into each use of its bits and compute it again there
        with set_xla_metadata(inlineable="false"):
            both = _hash_jitted(key_1, key_2, x, y)
        high = lax.shift_right_logical(both, _constant(32, both))
        return lax.convert_element_type(high, jnp.uint32), lax.convert_element_type(both, jnp.uint32)


def in_one_kernel() -> None:
    """Lets JAX compile Threefry on CPUs as one kernel from now on, in this process."""
    rule = mlir.lower_fun(hash_2x32, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu", inline=False)
