"""Trees packed into one array: what goes in comes out."""

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import stacked

RNG = np.random.default_rng(0)


def _tree(n):
    return {
        "reward": RNG.normal(size=n).astype(np.float32),
        "obs": RNG.normal(size=(n, 2, 3)).astype(np.float32),
        "valid": RNG.random(n) < 0.5,
        "none": None,
        "nothing": np.zeros((n, 0), np.float32),
        "count": np.arange(n, dtype=np.int32),
    }


def _check_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_tree_comes_out_as_it_went_in():
    tree = jax.tree.map(jnp.asarray, _tree(4))
    packed = stacked.pack(tree)
    assert packed.floats.shape == (4, 1 + 6 + 1)
    assert [leaf.dtype for leaf in packed.apart] == [jnp.int32]
    _check_equal(stacked.unpack(packed), tree)


def test_the_results_of_a_loop_are_those_of_its_steps():
    steps = [_tree(4) for _ in range(5)]
    expected = jax.tree.map(lambda *xs: np.stack(xs), *steps)

    @jax.jit
    def loop(steps):
        return jax.lax.scan(lambda _, step: (None, stacked.pack(step)), None, steps)[1]

    packed = loop(expected)
    assert packed.floats.shape == (5, 4, 8)
    _check_equal(stacked.unpack(packed), expected)
