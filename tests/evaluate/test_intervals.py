"""Bootstrap intervals and paired differences."""

import numpy as np
import pytest
from scipy import stats

from roml_jax.evaluate.intervals import bootstrap, decimals, paired


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=(12, 3))
    made = bootstrap(values, resamples=40_000)
    wanted = stats.bootstrap((values,), np.mean, axis=0, method="percentile", n_resamples=40_000, rng=1)
    np.testing.assert_allclose(made.mean, values.mean(axis=0))
    np.testing.assert_allclose(made.low, wanted.confidence_interval.low, rtol=0.01)
    np.testing.assert_allclose(made.high, wanted.confidence_interval.high, rtol=0.01)


@pytest.mark.parametrize(("seeds", "covered"), [(3, 0.75), (5, 0.83), (10, 0.90), (30, 0.93)])
def test_how_often_it_covers_the_mean_is_as_documented(seeds, covered):
    made = bootstrap(np.random.default_rng(seeds).normal(size=(seeds, 5000)), resamples=1000)
    assert abs(((made.low < 0) & (made.high > 0)).mean() - covered) < 0.02


def test_one_seed_has_no_interval_and_says_so():
    made = bootstrap([[1.0, 2.0]])
    np.testing.assert_array_equal(made.mean, [1.0, 2.0])
    assert np.isnan(made.low).all()
    assert np.isnan(made.high).all()
    assert bootstrap([1.25]).text(2) == "1.25"
    assert bootstrap([1.0, 1.0]).text(1) == "1.0 [1.0, 1.0]"


def test_twice_is_the_same():
    values = np.random.default_rng(0).normal(size=9)
    assert bootstrap(values) == bootstrap(values)


def test_differences_are_taken_seed_by_seed():
    """What seeds have in common cancels: the interval is that of the differences, not of the methods."""
    noise = np.random.default_rng(0).normal(scale=100.0, size=10)
    baseline = dict(enumerate(noise))
    method = {seed: value + 1.0 + 0.01 * seed for seed, value in baseline.items()} | {99: 1e6}
    made = paired(method, baseline)
    assert made.n == 10
    np.testing.assert_allclose(made.mean, 1.045)
    assert 1.0 < made.low < made.mean < made.high < 1.1
    assert paired({1: 0.0}, {2: 0.0}) is None


def test_decimals_fit_the_size():
    assert [decimals([x]) for x in (0.3, -15.0, 1500.0, np.nan)] == [3, 2, 1, 3]
