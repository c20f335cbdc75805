"""Functions on the host that compiled programs call by name, also programs of an earlier process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax.envs.physics import host_call

TWICE_AND_COUNT = """
import jax, jax.numpy as jnp, numpy as np
from roml_jax.envs.physics import host_call

def make():
    def function(out, x):
        out[...] = 2 * x
    return function

cached = []
jax.monitoring.register_event_listener(lambda event, **_: cached.append(event.rsplit("/", 1)[-1]))
program = jax.jit(lambda x: host_call.call("test_twice", make, jax.ShapeDtypeStruct((3,), x.dtype), x) + 1)
print(program(jnp.arange(3.0)), "cache_hits" in cached)
"""


def plus(out, a, b):
    """Of (..., 2) and (..., 3) the sums, into (..., 2)."""
    if (a < 0).any():
        raise ValueError("a must not be negative")
    out[...] = a + b.sum(-1, keepdims=True)


def call(a, b):
    return host_call.call("test_plus", lambda: plus, jax.ShapeDtypeStruct((2,), a.dtype), a, b)


def through_jax(a, b):
    return host_call._through_jax(plus, jax.ShapeDtypeStruct((2,), a.dtype), a, b)


@pytest.mark.parametrize("function", [call, through_jax])
def test_a_batch_of_any_axes_is_one_call(function):
    a, b = np.random.default_rng(0).random((4, 5, 2), np.float32), np.ones((5, 3), np.float32)
    expected = a + 3
    inner = jax.vmap(function, in_axes=(0, 0))
    np.testing.assert_allclose(jax.jit(jax.vmap(inner, in_axes=(0, None)))(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(function)(a[0, 0], b[0]), expected[0, 0], rtol=1e-6)


def test_in_double_precision(x64):
    got = jax.jit(call)(jnp.full(2, 1 / 3), jnp.full(3, 1e-12))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, 1 / 3 + 3e-12, rtol=1e-15)


def test_without_examples_there_is_nothing_to_do():
    assert jax.jit(jax.vmap(call))(jnp.zeros((0, 2)), jnp.zeros((0, 3))).shape == (0, 2)


def test_an_error_is_raised_where_the_result_is_asked_for():
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: a must not be negative"):
        jax.jit(call)(jnp.full(2, -1.0), jnp.zeros(3)).block_until_ready()


def test_the_next_process_finds_the_program_in_the_compile_cache(tmp_path):
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    said = [
        subprocess.run(
            [sys.executable, "-c", TWICE_AND_COUNT],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["[1. 3. 5.] False", "[1. 3. 5.] True"]
