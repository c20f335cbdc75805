"""Bootstrap intervals, paired differences, and the aggregates of rliable."""

import numpy as np
import pytest
from scipy import stats

from roml_jax.evaluate.intervals import (
    bootstrap,
    decimals,
    difference,
    iqm,
    paired,
    probability_of_improvement,
    resampled,
)


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


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert iqm(np.arange(1, 9)) == 4.5
    assert iqm([[8, 1, -1e9, 3], [1e9, 6, 2, 5]]) == 4.0  # of 2, 3, 5, 6
    for size in (1, 5, 11, 30):
        values = np.random.default_rng(size).normal(size=size)
        np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25))


def test_the_probability_of_improvement_is_mann_whitneys():
    low, high = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) + 10
    assert probability_of_improvement(high, low) == 1.0
    assert probability_of_improvement(low, high) == 0.0
    assert probability_of_improvement(low, low) == 0.5
    # one task: 2 beats 1, meets 2; 4 beats 1 and 2; the second task is lost
    assert probability_of_improvement([[2, 0], [4, 0]], [[1, 5], [2, 5]]) == (3.5 / 4 + 0) / 2
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(7, 9)), rng.integers(6, size=(4, 9))
    by_task = [stats.mannwhitneyu(x[:, t], y[:, t], alternative="greater").statistic for t in range(9)]
    np.testing.assert_allclose(probability_of_improvement(x, y), np.mean(by_task) / 28)


def _rliable(statistic, rng, *groups, draws=2000):
    """rliable's stratified bootstrap, written down again: a loop over resamples, groups and tasks."""
    values = []
    for _ in range(draws):
        again = [
            np.stack([task[rng.integers(len(task), size=len(task))] for task in group.T], axis=1)
            for group in groups
        ]
        values.append(statistic(*again))
    return np.quantile(values, [0.025, 0.975])


def test_the_stratified_bootstrap_draws_seeds_anew_for_each_task():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 8)) + np.arange(8), rng.normal(size=(6, 8)) + np.arange(8) - 0.5
    for statistic, groups in ((iqm, (x,)), (probability_of_improvement, (x, y))):
        made = resampled(statistic, *groups, by_task=True, resamples=4000)
        low, high = _rliable(statistic, rng, *groups)
        np.testing.assert_allclose([made.low, made.high], [low, high], atol=0.04 * (high - low))
        assert made.mean == statistic(*groups)
        assert made.low < made.mean < made.high


def test_learners_that_act_on_all_tasks_need_whole_seeds():
    """Returns = a seed's level + noise by task. The interval of seeds drawn by task covers far too rarely."""
    rng, covered = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(200):
        returns = rng.normal(size=(5, 1)) + rng.normal(size=(5, 60))
        for by_task in covered:
            made = resampled(np.mean, returns, by_task=by_task, resamples=200)
            covered[by_task] += bool(made.low < 0 < made.high)
    assert covered[False] / 200 > 0.75  # 83 % for five seeds
    assert covered[True] / 200 < 0.35


def test_the_resampling_of_whole_seeds_is_the_bootstrap_of_means():
    values = np.random.default_rng(3).normal(size=(8, 4))
    made = resampled(np.mean, values, resamples=4000)
    wanted = bootstrap(values.mean(axis=1))
    np.testing.assert_allclose(made.mean, wanted.mean)
    np.testing.assert_allclose([made.low, made.high], [wanted.low, wanted.high], atol=0.02)
    assert np.isnan(resampled(iqm, values[:1]).low)


def test_differences_without_common_seeds_are_between_independent_groups():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=12) + 1.0, rng.normal(size=9)
    made = difference(dict(enumerate(x)), {100 + i: value for i, value in enumerate(y)})
    wanted = stats.bootstrap((x, y), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="percentile",
                             vectorized=True, rng=1)  # fmt: skip
    np.testing.assert_allclose(made.mean, x.mean() - y.mean())
    np.testing.assert_allclose([made.low, made.high], wanted.confidence_interval, atol=0.12)
    assert made.n == 9
    # one common seed would be a single pair, whatever the other seeds say
    again = difference(dict(enumerate(x)), {11 + i: value for i, value in enumerate(y)})
    np.testing.assert_array_equal(again, made)
