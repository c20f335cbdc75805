"""Random bits in one kernel are those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax.run import threefry


def published(key, counter):
    """The hash (Salmon et al. 2011) in Python's integers."""
    mask = 2**32 - 1
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = ((c + k) & mask for c, k in zip(counter, keys, strict=False))
    for i in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        x = (x + y) & mask
        y = x ^ ((y << turn | y >> (32 - turn)) & mask)
        if i % 4 == 3:
            x = (x + keys[(i // 4 + 1) % 3]) & mask
            y = (y + keys[(i // 4 + 2) % 3] + i // 4 + 1) & mask
    return x, y


def test_the_hash_is_that_of_its_paper():
    """The last case is the one that its authors publish."""
    cases = [((1, 2), (3, 4)), ((0, 0), (0, 0)), ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3))]
    for key, counter in cases:
        got = threefry.hash_2x32(*(jnp.uint32(x) for x in (*key, *counter)))
        assert tuple(map(int, got)) == published(key, counter)
    assert published(*cases[-1]) == (0xC4923A9C, 0x483DF7A0)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_compiled_draws_are_hashes_of_their_places(x64, shape):
    """JAX's definition of its bits, also under vmap; conftest.py has registered the kernel."""
    with jax.enable_x64(x64):
        keys = jax.random.split(jax.random.key(3), 2)
        draw = jax.jit(jax.vmap(lambda key: jax.random.bits(key, shape, "uint32")))
        got = np.asarray(draw(keys)).reshape(2, -1)
        lowered = draw.lower(keys).as_text()
    for i, key in enumerate(np.asarray(jax.random.key_data(keys)).tolist()):
        assert key == list(published((0, 3), (0, i)))
        expected = [np.bitwise_xor(*published(key, (0, place))) for place in range(got.shape[1])]
        np.testing.assert_array_equal(got[i], expected)
    assert "inlineable" in lowered  # our kernel, not JAX's loop
    assert "stablehlo.while" not in lowered
