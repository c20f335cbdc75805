import jax.numpy as jnp
import numpy as np
import pytest
from cem.CEM import quantile as package_quantile

from roml_jax import risk

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 7, 128])
@pytest.mark.parametrize("q", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_quantile_is_numpys(x64, n, q):
    x = RNG.normal(size=n)
    np.testing.assert_allclose(risk.quantile(jnp.asarray(x), q), np.percentile(x, 100 * q), rtol=1e-12)


def test_quantile_of_ties_is_exactly_the_tie():
    x = jnp.asarray([0.1] * 50 + [0.7] * 50, jnp.float32)
    assert risk.quantile(x, 0.2) == x[0]


def test_quantile_ignores_what_is_masked(x64):
    x = RNG.normal(size=20)
    where = np.arange(20) % 3 > 0
    poisoned = np.where(where, x, np.nan)
    expected = np.percentile(x[where], 30)
    np.testing.assert_allclose(
        risk.quantile(jnp.asarray(poisoned), 0.3, jnp.asarray(where)), expected, rtol=1e-12
    )
    weights = RNG.uniform(size=20)
    got = risk.weighted_quantile(jnp.asarray(poisoned), jnp.asarray(weights), 0.3, jnp.asarray(where))
    np.testing.assert_allclose(got, package_quantile(x[where], 0.3, weights[where]), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3, 1.0])
def test_weighted_quantile_is_the_packages(x64, alpha):
    for n in (2, 5, 128):
        x, w = RNG.normal(size=n), RNG.uniform(0.01, 3, size=n)
        expected = package_quantile(x, alpha, w, estimate_underlying_quantile=True)
        level = risk.underlying_level(alpha, n)
        np.testing.assert_allclose(
            risk.weighted_quantile(jnp.asarray(x), jnp.asarray(w), level), expected, rtol=1e-12
        )


def test_underlying_level_for_a_batch_of_128():
    np.testing.assert_allclose(risk.underlying_level(0.05, 128), 0.0429, atol=5e-5)
    np.testing.assert_allclose(risk.underlying_level(0.01, 128), 0.00228, atol=5e-6)


@pytest.mark.parametrize(
    ("n", "alpha", "count"), [(256, 0.01, 3), (32, 0.05, 2), (100, 0.07, 7), (3000, 0.01, 30), (5, 1.0, 5)]
)
def test_cvar_is_the_mean_of_the_worst_ceil(n, alpha, count):
    returns = RNG.permutation(np.arange(n, dtype=np.float32))
    assert risk.cvar(jnp.asarray(returns), alpha) == pytest.approx((count - 1) / 2)
