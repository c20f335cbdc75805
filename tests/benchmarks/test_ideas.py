"""The variants of RoML: each changes one thing, and what it changes is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks.samplers import ideas, protocol
from roml_jax import proposals, risk, samplers, tasks
from roml_jax.cem import CemConfig
from roml_jax.testing import check_sampler

FAMILY = tasks.beta("load", 0.0, 7.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in protocol.IDEAS if name.startswith("cem_")])
def test_a_variant_is_a_sampler(name):
    ideas.register()
    check_sampler(samplers.make(name, FAMILY, 0.05), FAMILY)


def test_stratified_draws_are_the_proposals_and_lie_apart():
    plain, phi = proposals.beta(1), jnp.array([0.3])
    apart = ideas.stratified(plain)
    draw = jax.jit(jax.vmap(lambda key: apart.sample(phi, key, 16)[:, 0]))
    u = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    beta = scipy.stats.beta(0.6, 1.4)
    # draws of a call repel each other, and are in order: the test is on one of each call
    mixed = np.random.default_rng(0).permuted(u, axis=1)[:, 0]
    assert scipy.stats.kstest(mixed, beta.cdf).pvalue > 0.01
    assert u.mean() == pytest.approx(0.3, abs=0.005)
    assert u.mean(axis=1).std() < 0.4 * beta.std() / 4  # 16 independent draws: std / 4


def test_a_mixtures_weights_are_bounded_and_unbiased():
    exact = CemConfig(density="exact")
    sampler = ideas.cem_mixture(FAMILY, 0.05, exact)
    draws = jax.jit(sampler.sample, static_argnums=2)
    state = jax.jit(sampler.init)(jax.random.key(0))
    state = state._replace(share=np.float32(0.25), cem=state.cem._replace(phi=np.float32([0.9])))
    draw = jax.tree.map(np.asarray, draws(state, jax.random.key(1), 20_000)[1])
    weight, u = np.exp(draw.log_w)[~draw.is_ref], draw.u[:, 0][~draw.is_ref]
    assert weight.max() <= 4.0001
    assert u.mean() > 0.75  # not the prior
    assert weight.mean() == pytest.approx(1.0, abs=0.03)
    assert (weight * (u < 0.3)).mean() == pytest.approx(0.3, abs=0.03)
    # with none of the prior they are those of cem
    plain = samplers.get("cem")(FAMILY, 0.05, exact)
    none = state._replace(share=np.float32(0.0))

    @jax.jit
    def of_cem(state, key):
        # the mixture's own draws from phi, which it keys once more
        key_phi = jax.random.split(key)[1]
        u = FAMILY.proposal.sample(state.phi, jax.random.split(key_phi, 3)[2], 64)
        density = proposals.exact(FAMILY.proposal).log_prob
        is_ref = plain.sample(state, key, 64)[1].is_ref
        return jnp.where(is_ref, 0.0, density(FAMILY.proposal.phi0, u) - density(state.phi, u))

    log_w = draws(none, jax.random.key(1), 64)[1].log_w
    np.testing.assert_allclose(log_w, of_cem(none.cem, jax.random.key(1)), atol=1e-6)


@pytest.mark.parametrize(
    ("level", "alpha", "expected"),
    [(0.04, 0.1, 0.4), (0.2, 0.1, 0.2), (0.05, 0.01, 0.4), (0.07, 0.01, 0.2), (np.nan, 0.1, 0.3)],
)
def test_the_priors_share_follows_the_tail_level(level, alpha, expected):
    following = jax.jit(ideas.next_share, static_argnums=3)
    assert following(0.3, level, alpha, 25) == pytest.approx(expected)
    assert following(0.8, 0.0, alpha, 25) == pytest.approx(0.8)


def test_predictions_take_the_noise_of_few_tasks_out_of_a_quantile():
    rng = np.random.default_rng(0)

    def estimates(key):
        x = jax.random.uniform(key, (128,))
        score = 2 * x + 0.03 * jax.random.normal(jax.random.fold_in(key, 1), (128,))
        weights = jnp.ones(128)
        level = risk.underlying_level(0.05, 128)
        plain = risk.weighted_quantile(score, weights, level)
        return plain, ideas.controlled_quantile(2 * x, score, weights, of_prior, 0.05)

    of_prior = np.linspace(0.0, 2.0, 1001, dtype=np.float32)
    found = jax.jit(jax.vmap(estimates))(jax.random.split(jax.random.key(0), 500))
    plain, controlled = map(np.asarray, found)
    truth = np.quantile(2 * rng.random(10**6) + 0.03 * rng.standard_normal(10**6), 0.05)
    assert np.mean(plain) == pytest.approx(truth, abs=0.01)
    assert np.mean(controlled) == pytest.approx(truth, abs=0.01)
    assert np.std(controlled) < 0.6 * np.std(plain)
    nothing = jax.jit(ideas.controlled_quantile)(
        of_prior, np.full_like(of_prior, np.nan), of_prior, of_prior, 0.05
    )
    assert nothing == -np.inf
