import jax
import numpy as np
import pytest
from cross_entropy_method.CEM import quantile as package_quantile

from roml_jax import risk

STRICT = True

RNG = np.random.default_rng(0)
# one program for a shape, not one for every operation
order, standardised, underlying_level = map(jax.jit, (risk.order, risk.standardised, risk.underlying_level))
quantile, weighted_quantile, cvar = (
    jax.jit(f, static_argnames="assume_sorted") for f in (risk.quantile, risk.weighted_quantile, risk.cvar)
)


@pytest.mark.parametrize("n", [1, 2, 7, 128])
@pytest.mark.parametrize("q", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_quantile_is_numpys(x64, n, q):
    x = RNG.normal(size=n)
    np.testing.assert_allclose(quantile(x, q), np.percentile(x, 100 * q), rtol=1e-12)


def test_quantile_of_ties_is_exactly_the_tie():
    x = np.array([0.1] * 50 + [0.7] * 50, np.float32)
    assert quantile(x, 0.2) == x[0]


def test_quantile_ignores_what_is_masked(x64):
    x = RNG.normal(size=20)
    where = np.arange(20) % 3 > 0
    poisoned = np.where(where, x, np.nan)
    expected = np.percentile(x[where], 30)
    np.testing.assert_allclose(quantile(poisoned, 0.3, where), expected, rtol=1e-12)
    weights = RNG.uniform(size=20)
    got = weighted_quantile(poisoned, weights, 0.3, where)
    np.testing.assert_allclose(got, package_quantile(x[where], 0.3, weights[where]), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3, 1.0])
def test_weighted_quantile_is_the_packages(x64, alpha):
    for n in (2, 5, 128):
        x, w = RNG.normal(size=n), RNG.uniform(0.01, 3, size=n)
        expected = package_quantile(x, alpha, w, estimate_underlying_quantile=True)
        level = underlying_level(alpha, n)
        np.testing.assert_allclose(weighted_quantile(x, w, level), expected, rtol=1e-12)


def test_underlying_level_for_a_batch_of_128():
    np.testing.assert_allclose(underlying_level(0.05, 128), 0.0429, atol=5e-5)
    np.testing.assert_allclose(underlying_level(0.01, 128), 0.00228, atol=5e-6)


@pytest.mark.parametrize(
    ("n", "alpha", "count"), [(256, 0.01, 3), (32, 0.05, 2), (100, 0.07, 7), (3000, 0.01, 30), (5, 1.0, 5)]
)
def test_cvar_is_the_mean_of_the_worst_ceil(n, alpha, count):
    returns = RNG.permutation(np.arange(n, dtype=np.float32))
    assert cvar(returns, alpha) == pytest.approx((count - 1) / 2)


@pytest.mark.parametrize("n", [1, 7, 128, 256, 257, 1000])
def test_order_is_numpys_lexsort(n):
    first, second = RNG.integers(0, 5, size=n).astype(float), RNG.integers(0, 3, size=n)
    np.testing.assert_array_equal(order(first), np.argsort(first, kind="stable"))
    both = order(first, second)
    np.testing.assert_array_equal(both, np.lexsort((second, first)))
    infinite = np.where(first == 2, np.inf, np.where(first == 1, -np.inf, first))
    np.testing.assert_array_equal(order(infinite), np.argsort(infinite, kind="stable"))


@jax.jit
def shuffled_and_ordered(x, weights, q, where, mean, i):
    """Pairs of figures, from values as they come and from values in the order i."""
    return (
        (risk.quantile(x, q, where), risk.quantile(x[i], q, where[i], assume_sorted=True)),
        (
            risk.weighted_quantile(x, weights, q, where),
            risk.weighted_quantile(x[i], weights[i], q, where[i], assume_sorted=True),
        ),
        (risk.cvar(x, q, where), risk.cvar(x[i], q, where[i], assume_sorted=True)),
        (risk.tail_level(mean, x, where), risk.tail_level(mean, x[i], where[i], assume_sorted=True)),
    )


def test_what_is_sorted_already_gives_the_same(x64):
    """Masked values anywhere among the sorted ones, at both ends too."""
    for trial in range(30):
        n = 17
        x, weights = np.round(RNG.normal(size=n), 1), RNG.uniform(0.01, 3, size=n)
        where, q = RNG.uniform(size=n) < 0.5, RNG.uniform()
        where[RNG.integers(n)] = trial > 0
        i = np.argsort(x, kind="stable")
        mean = -0.3
        pairs = shuffled_and_ordered(x, weights, q, where, mean, i)
        for shuffled, ordered in pairs:
            np.testing.assert_allclose(ordered, shuffled, rtol=1e-12)
        known = x[where]
        if known.size:
            known_weights = weights[where]
            stable = np.argsort(known, kind="stable")  # the package's own order of ties is quicksort's
            expected = package_quantile(known[stable], q, known_weights[stable], is_sorted=True)
            if known.size > 1:
                np.testing.assert_allclose(pairs[1][0], expected, rtol=1e-12)
            running = np.cumsum(np.sort(known)) / np.arange(1, known.size + 1)
            level = np.interp(mean, running, np.arange(1, known.size + 1) / known.size)
            np.testing.assert_allclose(pairs[3][0], level, rtol=1e-12)


def test_standardised_values_are_numpys_and_finite_whatever_comes():
    x = RNG.normal(size=20)
    where = np.arange(20) % 3 > 0
    poisoned = np.where(where, x, np.nan)
    expected = np.where(where, (x - x[where].mean()) / x[where].std(), 0)
    np.testing.assert_allclose(standardised(poisoned, where), expected, rtol=1e-4, atol=1e-6)
    every = np.ones(3, bool)
    for values, expected in (
        ([-np.inf, 0.0, 1.0], [-(2**-0.5), -(2**-0.5), 2**0.5]),  # as the smallest finite one
        ([-3e38, 3e38, 3e38], [-(2**0.5), 2**-0.5, 2**-0.5]),
        ([-np.inf, np.inf, -np.inf], [0, 0, 0]),
        ([2.0, 2.0, 2.0], [0, 0, 0]),
    ):
        np.testing.assert_allclose(standardised(np.array(values), every), expected, rtol=1e-5)
    np.testing.assert_array_equal(standardised(np.full(3, np.nan), ~every), 0)
