"""The ring of trajectories."""

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.agents import replay

RNG = np.random.default_rng(0)


def test_replay_writes_in_a_ring_and_draws_without_replacement():
    ring = replay.init(10, jax.ShapeDtypeStruct((2,), jnp.float32))
    for i in range(3):  # 4 + 4 fit; the third batch does not fit before the end and starts over
        ring = replay.add(ring, jnp.full((4, 2), float(i)))
    np.testing.assert_array_equal(ring.rows[:, 0], [2, 2, 2, 2, 1, 1, 1, 1, 0, 0])
    assert int(ring.size) == 8
    draw = jax.jit(jax.vmap(lambda key: replay.sample_indices(ring.size, key, 5)))
    index = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert all(len(set(row)) == 5 for row in index)
    counts = np.bincount(index.ravel(), minlength=8) / 4000
    np.testing.assert_allclose(counts, 5 / 8, atol=0.04)
    assert index.max() < 8


def test_replay_with_fewer_rows_than_asked_for_returns_them_all():
    index = np.asarray(replay.sample_indices(jnp.int32(3), jax.random.key(0), 5))
    assert set(index) <= {0, 1, 2}


def test_rows_are_those_of_floyds_algorithm():
    def floyd(size, key, n):
        draws, chosen = np.asarray(jax.random.uniform(key, (n,))), []
        for i in range(n):
            last = max(size - n + i, 0)
            candidate = min(int(draws[i] * np.float32(last + 1)), last)
            chosen.append(last if candidate in chosen else candidate)
        return chosen

    draw = jax.jit(replay.sample_indices, static_argnums=2)
    for n in (1, 2, 7, 20):
        for size in (1, n - 1, n, n + 1, 2 * n, 50):
            for seed in range(20):
                key = jax.random.key(seed)
                assert list(np.asarray(draw(jnp.int32(size), key, n))) == floyd(size, key, n)
