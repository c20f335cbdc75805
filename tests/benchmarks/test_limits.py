"""The work that ``benchmarks.limits`` counts is that of the program."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import limits


def counted(function, *args):
    return limits.count(jax.make_jaxpr(function)(*args).jaxpr)


A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


def test_a_product_is_two_operations_per_term_and_as_many_again_for_each_derivative():
    assert counted(lambda a, b: a @ b, A, B) == (2 * 3 * 4 * 5, 0)
    assert counted(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), A, B).products == 3 * 2 * 3 * 4 * 5
    batched = jax.vmap(lambda a: a @ B)
    assert counted(batched, jnp.ones((7, 3, 4))).products == 7 * 2 * 3 * 4 * 5


def test_a_loop_counts_every_turn_and_a_branch_the_dearest():
    def turn(carry, _):
        return jnp.tanh(carry @ carry), None

    square = jnp.ones((4, 4))
    assert counted(lambda x: jax.lax.scan(turn, x, None, length=6)[0], square) == (6 * 128, 6 * 16)
    branch = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)  # noqa: E731
    assert counted(jax.jit(branch), square).products == 2 * 128


def test_a_loop_without_a_known_number_of_turns_is_refused():
    with pytest.raises(ValueError, match="does not say"):
        counted(lambda x, n: jax.lax.fori_loop(0, n, lambda _, y: y @ y, x), jnp.ones((4, 4)), 3)
