"""The risk network of MPTS and PDTS against formulas written out, and on a loss surface that is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from roml_jax import samplers, tasks
from roml_jax.samplers import risk_network
from roml_jax.samplers.risk_network import Latent, RiskNetworkConfig

STRICT = True
DIMS, WIDTH = 2, 10
encode, decode, divergence = map(jax.jit, (risk_network.encode, risk_network.decode, risk_network.divergence))
RNG = np.random.default_rng(0)
X, Y = RNG.uniform(size=(12, DIMS)), RNG.normal(size=12)


@functools.cache
def params(seed=0, dtype=jnp.float32):
    init = jax.jit(lambda key: risk_network.init_params(key, DIMS, WIDTH, dtype))
    return init(jax.random.key(seed))


def dense(layer, x):
    return x @ np.asarray(layer.weights, np.float64) + np.asarray(layer.bias, np.float64)


def relu(x):
    return np.maximum(x, 0)


def encoded(p, x, y):
    """(mean, std) as the paper draws the network, in NumPy."""
    hidden = np.concatenate([x, y[:, None]], axis=1)
    for layer in p.encoder[:2]:
        hidden = relu(dense(layer, hidden))
    summary = relu(dense(p.summary, dense(p.encoder[2], hidden).mean(axis=0)))
    return dense(p.mean, summary), 0.1 + 0.9 / (1 + np.exp(-dense(p.std, summary)))


def decoded(p, x, z):
    hidden = np.concatenate([x, np.broadcast_to(z, (len(x), z.size))], axis=1)
    for layer in p.decoder[:3]:
        hidden = relu(dense(layer, hidden))
    return dense(p.decoder[3], hidden)[:, 0]


def test_sizes_are_the_published_ones():
    sizes = [layer.weights.shape for layer in params().encoder]
    assert sizes == [(DIMS + 1, 10), (10, 10), (10, 10)]
    assert [layer.weights.shape for layer in params().decoder] == [
        (DIMS + 10, 10),
        (10, 10),
        (10, 10),
        (10, 1),
    ]


def test_both_halves_are_the_network_written_out():
    p, where = params(), np.arange(12) % 3 > 0
    latent = encode(p, X, Y, where)
    mean, std = encoded(p, X[where], Y[where])  # what does not count is not there
    np.testing.assert_allclose(latent.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(latent.std, std, rtol=1e-5)
    z = RNG.normal(size=(3, WIDTH))
    predicted = decode(p, X, z)
    np.testing.assert_allclose(predicted, [decoded(p, X, row) for row in z], rtol=1e-4, atol=1e-5)


def test_divergence_is_the_integral():
    latent = Latent(np.array([0.3, -1.0], np.float32), np.array([0.2, 0.9], np.float32))
    prior = Latent(np.array([0.0, 0.5], np.float32), np.array([1.0, 0.4], np.float32))
    total = 0.0
    for mean, std, mean0, std0 in zip(*latent, *prior, strict=True):
        p, q = stats.norm(float(mean), float(std)), stats.norm(float(mean0), float(std0))
        terms = lambda z, p=p, q=q: p.pdf(z) * (p.logpdf(z) - q.logpdf(z))  # noqa: E731
        total += integrate.quad(terms, p.mean() - 12 * p.std(), p.mean() + 12 * p.std())[0]
    assert float(divergence(latent, prior)) == pytest.approx(total, rel=1e-5)
    assert float(divergence(prior, prior)) == 0


@functools.cache
def network(**options):
    made = risk_network.make(RiskNetworkConfig(**options), DIMS, jnp.float32)
    return made._replace(init=jax.jit(made.init), update=jax.jit(made.update))


def test_the_latent_of_a_step_is_the_prior_of_the_next():
    made, where, x, y = network(steps=1), np.ones(12, bool), X, Y
    first = made.init(jax.random.key(0))
    np.testing.assert_array_equal(first.prior.mean, 0)
    np.testing.assert_array_equal(first.prior.std, 1)
    second, _ = made.update(first, x, y, where, jax.random.key(1))
    before = encode(first.params, x, y, where)
    np.testing.assert_allclose(second.prior.mean, before.mean, rtol=1e-5, atol=1e-6)
    after = encode(second.params, x, y, where)
    np.testing.assert_allclose(second.posterior.std, after.std, rtol=1e-5)
    # Adam's first step moves every parameter that has a gradient by the learning rate
    moved = np.abs(np.asarray(second.params.decoder[-1].bias) - first.params.decoder[-1].bias)
    np.testing.assert_allclose(moved, 5e-3, rtol=1e-3)


def test_the_gradient_is_that_of_error_and_divergence(x64):
    """By finite differences along a random direction, with the draw of the latent held fixed."""
    p = params(0, jnp.float64)
    prior = Latent(np.full(WIDTH, 0.2), np.full(WIDTH, 0.7))

    @jax.jit
    def value(p):
        args = (jnp.asarray(X), jnp.asarray(Y), jnp.ones(12, bool), jax.random.key(3), 0.5)
        return risk_network.loss(p, prior, *args)[0]

    direction = params(1, jnp.float64)
    p, direction, gradient = jax.device_get((p, direction, jax.jit(jax.grad(value))(p)))
    slope = sum(
        float((a * b).sum())
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    ends = [value(jax.tree.map(lambda a, b, h=h: a + h * b, p, direction)) for h in (1e-6, -1e-6)]
    assert slope == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_pairs_that_do_not_count_are_as_if_they_were_not_there():
    made, where = network(), np.arange(12) % 3 > 0
    state, key = made.init(jax.random.key(0)), jax.random.key(1)
    masked, error = made.update(state, X, Y * where, where, key)
    alone, its_error = made.update(state, X[where], Y[where], np.ones(where.sum(), bool), key)
    assert float(error) == pytest.approx(float(its_error), rel=1e-4)
    for a, b in zip(jax.tree.leaves(masked), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    unchanged, _ = made.update(state, X, np.zeros(12), np.zeros(12, bool), key)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(unchanged), strict=True):
        np.testing.assert_array_equal(a, b)


FAMILY = tasks.log_beta(("a", "b"), bound=None)


def surface(u):
    """A known loss: curved in both dimensions."""
    return jnp.exp(2 * u[:, 0]) + 3 * jnp.sqrt(u[:, 1])


@pytest.mark.parametrize("name", ["mpts", "pdts"])
def test_after_twenty_batches_tasks_are_ranked_by_their_losses(name):
    """On 2000 tasks of the prior; from the fourth batch on the sampler chooses its tasks itself."""
    n, sampler = 16, samplers.make(name, FAMILY, 0.05)

    @jax.jit
    def step(state, key, progress):
        state, draw = sampler.sample(state, key, n)
        return sampler.update(state, draw, 1e4 - 300 * surface(draw.u), key, progress)

    @jax.jit
    def known(key):
        u = FAMILY.proposal.sample(FAMILY.proposal.phi0, key, 2000)
        return u, surface(u)

    u, losses = jax.device_get(known(jax.random.key(9)))
    init = jax.jit(sampler.init)
    for seed in range(3):
        state = init(jax.random.key(seed))
        for i, key in enumerate(jax.random.split(jax.random.key(10 + seed), 20)):
            state, metrics = step(state, key, i / 20)
        network = state.state.network
        predicted = np.asarray(decode(network.params, u, np.asarray(network.posterior.mean)[None]))[0]
        assert stats.spearmanr(losses, predicted).statistic > 0.9
        assert float(metrics["prior_share"]) == 0
