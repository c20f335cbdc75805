"""GDRM's weights, by hand."""

import functools

import jax
import numpy as np
import pytest

from roml_jax import samplers, tasks
from roml_jax.samplers.gdrm import GdrmConfig

STRICT = True
FAMILY = tasks.beta("v", 0.0, 7.0)


@functools.cache
def weighing(**options):
    """``weights`` of (two keys, returns), in one program for a number of returns."""
    sampler = samplers.gdrm(FAMILY, 0.05, GdrmConfig(**options))

    @jax.jit
    def run(first, second, returns):
        state, draw = sampler.sample(sampler.init(first), second, returns.size)
        return sampler.weights(state, draw, returns)

    return run


def weights(returns, **options):
    run, returns = weighing(**options), np.asarray(returns, np.float32)
    return jax.device_get(run(jax.random.key(0), jax.random.key(1), returns))


def test_weights_by_hand_with_the_worst_task_first():
    """Returns 0, -ln 2 and -ln 4 at eta 1: shares 1/7, 2/7 and 4/7 of a sum of 3."""
    returns = np.array([0.0, -np.log(2), -np.log(4)])
    keep, loss = weights(returns, eta=1.0)
    np.testing.assert_allclose(loss, 3 * np.array([1, 2, 4]) / 7, rtol=1e-5)
    np.testing.assert_array_equal(keep, 1)
    np.testing.assert_allclose(weights(returns + 1e3, eta=1.0).loss, loss, rtol=1e-3)
    np.testing.assert_array_equal(weights(returns, eta=0.0).loss, 1)
    # the published eta, on returns of a robot
    returns = np.array([-200.0, 1300.0, 900.0, 400.0])
    expected = np.exp(-1e-3 * returns)
    np.testing.assert_allclose(weights(returns).loss, 4 * expected / expected.sum(), rtol=1e-4)


def test_standardised_weights_do_not_depend_on_the_unit_of_returns():
    returns = np.random.default_rng(0).normal(size=16)
    expected = np.exp(-(returns - returns.mean()) / returns.std())
    for scale, shift in ((1.0, 0.0), (1e4, 300.0), (1e-3, 2.0)):
        loss = weights(scale * returns + shift, eta=1.0, standardise=True).loss
        np.testing.assert_allclose(loss, 16 * expected / expected.sum(), rtol=1e-2)
    np.testing.assert_array_equal(weights(np.full(5, 3.0), eta=1.0, standardise=True).loss, 1)


@pytest.mark.parametrize("standardise", [False, True])
def test_diverged_tasks_weigh_nothing_and_the_others_one_on_average(standardise):
    keep, loss = weights([1.0, np.nan, 3.0, np.nan, 2.0], eta=1.0, standardise=standardise)
    np.testing.assert_array_equal(keep, [1, 0, 1, 0, 1])
    alone = weights([1.0, 3.0, 2.0], eta=1.0, standardise=standardise).loss
    np.testing.assert_allclose(loss, [alone[0], 0, alone[1], 0, alone[2]], rtol=1e-5)
    assert float(loss.sum()) == pytest.approx(3)
    for weight in weights(np.full(4, np.nan), standardise=standardise):
        np.testing.assert_array_equal(weight, 0)


def test_huge_and_infinite_returns_have_finite_weights():
    np.testing.assert_allclose(weights([-np.inf, 0.0, np.inf]).loss, [3, 0, 0])
    np.testing.assert_allclose(weights([-3e38, 3e38, 0.0], eta=1e3).loss, [3, 0, 0])
    assert np.isfinite(weights([-np.inf, 0.0, 1.0, np.inf], standardise=True).loss).all()


def test_its_tasks_are_the_priors_and_it_reports_its_largest_weight():
    sampler = samplers.gdrm(FAMILY, 0.05, GdrmConfig(eta=1.0))

    @jax.jit
    def run(first, second, third, returns):
        state, draw = sampler.sample(sampler.init(first), second, 3)
        return draw, sampler.update(state, draw, returns, third)[1]

    returns = np.array([0.0, -np.log(2.0), -np.log(4.0)], np.float32)
    draw, metrics = run(*map(jax.random.key, range(3)), returns)
    assert np.asarray(draw.is_ref).all()
    assert float(metrics["largest_weight"]) == pytest.approx(4 / 7)
    assert float(metrics["ref_cvar"]) == pytest.approx(-np.log(4))


def test_options_out_of_range_are_one_line():
    with pytest.raises(ValueError, match=r"sampler\.eta must be at least 0, got -1"):
        GdrmConfig(eta=-1.0)
