"""The tasks that figures show of a sampler are those that it draws."""

import jax
import numpy as np
import pytest

from roml_jax import samplers, tasks, testing
from roml_jax.samplers import drawn

FAMILY = tasks.log_beta(("mass",), hardest="top")
MEANS_ONLY = {"accel", "mpts", "naive", "pdts", "plr", "sfl"}


@pytest.mark.parametrize("name", sorted({*samplers.names()} - MEANS_ONLY))
def test_a_samplers_distribution_is_the_one_that_it_draws_from(name):
    sampler = testing.make_sampler(name, FAMILY, 0.1)

    @jax.jit
    def first(key, other):
        state = sampler.init(key)
        return sampler.phi(state), sampler.sample(state, other, 4096)[1]

    phi, draw = jax.device_get(first(jax.random.key(1), jax.random.key(2)))
    wanted = draw.task if draw.is_ref.all() else draw.task[~draw.is_ref]
    found = drawn.of(sampler, FAMILY)
    spread = found.spread(phi[None])
    np.testing.assert_allclose(spread.mean[0], wanted.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(spread.low[0], np.quantile(wanted, 0.1, axis=0), atol=0.03)
    np.testing.assert_allclose(spread.high[0], np.quantile(wanted, 0.9, axis=0), atol=0.03)
    np.testing.assert_array_equal(found.phi, phi)


@pytest.mark.parametrize("name", sorted(MEANS_ONLY))
def test_of_a_mean_there_is_no_band_and_at_the_prior_it_is_exact(name):
    sampler = testing.make_sampler(name, FAMILY, 0.1)
    assert sampler.drawn is None
    spread = drawn.of(sampler, FAMILY).spread(np.array([[0.5], [0.9]]))
    np.testing.assert_array_equal(spread.mean[0], drawn.prior(FAMILY).spread(np.array([[0.5]])).mean[0])
    assert spread.mean[1] > 1.6
    assert np.isnan(spread.low).all()
    assert np.isnan(spread.high).all()


def test_the_mean_over_seeds_is_that_of_their_distributions():
    found = drawn.prior(FAMILY)
    phis = np.array([[0.1], [0.5], [0.9]])
    np.testing.assert_allclose(found.mean(phis), found.spread(phis).mean.mean(axis=0), atol=0.03)
