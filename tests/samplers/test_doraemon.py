"""DORAEMON: the mathematics of Beta distributions, the step against scipy, and when no step is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted
from scipy import optimize, special, stats

from roml_jax import samplers, tasks
from roml_jax.samplers import betas
from roml_jax.samplers.doraemon import Window, next_distribution
from roml_jax.types import Feedback

FAMILY = tasks.log_beta(("a", "b"), bound=None)
CONFIG = samplers.DoraemonConfig(success=0.0)
STRICT = True
TRUE, FALSE = jnp.asarray(True), jnp.asarray(False)
# one program for a shape, not one for every operation
kl, log_prob, statistics = map(jax.jit, (betas.kl, betas.log_prob, betas.statistics))


def exact_kl(p, q):
    """KL between products of Betas, from scipy; parameters a of every dimension, then b."""
    (a, b), (c, d) = np.split(np.asarray(p, float), 2), np.split(np.asarray(q, float), 2)
    both = special.digamma(a + b)
    terms = special.betaln(c, d) - special.betaln(a, b) + (a - c) * (special.digamma(a) - both)
    return float((terms + (b - d) * (special.digamma(b) - both)).sum())


def exact_log_prob(phi, v):
    a, b = np.split(np.asarray(phi, float), 2)
    return stats.beta.logpdf(v, a, b).sum(axis=1)


PAIRS = [
    ([100.0, 100.0], [90.0, 92.0]),
    ([100.0, 100.0], [1.0, 1.0]),
    ([0.8, 0.8], [110.0, 110.0]),
    ([1.0, 1.0], [1.1, 0.9]),
    ([3.0, 50.0, 0.9, 7.0], [3.2, 48.0, 0.85, 6.0]),
]


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_the_divergence_in_single_precision(p, q):
    """To 5e-6, where log gamma(200) itself is rounded by 3e-5."""
    at = np.asarray(p, np.float32)
    delta = np.asarray(q, np.float32) - at
    assert float(kl(at, delta)) == pytest.approx(exact_kl(p, q), abs=5e-6, rel=1e-5)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_densities_and_divergences_are_scipys(p, q, x64):
    p, q = np.asarray(p), np.asarray(q)
    assert float(kl(p, q - p)) == pytest.approx(exact_kl(p, q), rel=1e-6)
    v = np.random.default_rng(0).uniform(0.01, 0.99, (20, p.size // 2))
    np.testing.assert_allclose(log_prob(p, v), exact_log_prob(p, v), atol=1e-7)
    ratio = np.asarray(statistics(p, v)) @ (q - p) - float(kl(p, q - p))
    np.testing.assert_allclose(ratio, exact_log_prob(q, v) - exact_log_prob(p, v), rtol=1e-6, atol=1e-7)


@jax.jit
def divergence_and_length(phi, key):
    z = 1e-3 * jax.random.normal(key, phi.shape)
    return betas.kl(phi, betas.whitened(phi, z)), (z**2).sum()


@pytest.mark.parametrize("phi", [p for p, _ in PAIRS])
def test_whitened_changes_have_the_divergence_of_their_length(phi, x64):
    divergence, squared = divergence_and_length(np.asarray(phi), jax.random.key(0))
    assert float(divergence) == pytest.approx(float(squared) / 2, rel=1e-2)


beta_draws = jax.jit(betas.sample, static_argnums=2)


@pytest.mark.parametrize("phi", [[100.0, 100.0], [0.8, 110.0], [0.8, 0.9], [1.0, 1.0], [2.0, 30.0, 5.0, 0.8]])
def test_draws_are_betas(phi):
    v = np.asarray(beta_draws(np.asarray(phi, np.float32), jax.random.key(0), 20_000))
    a, b = np.split(np.asarray(phi), 2)
    for column, first, second in zip(v.T, a, b, strict=True):
        assert stats.kstest(column, stats.beta(first, second).cdf).pvalue > 1e-3


def test_weights_are_the_exact_density_ratio():
    sampler = jitted(samplers.doraemon(FAMILY, 0.05, CONFIG))
    state = sampler.init(jax.random.key(0))._replace(phi=np.asarray([1.5, 1.2, 0.9, 1.3], np.float32))
    draw = jax.device_get(sampler.sample(state, jax.random.key(1), 100_000)[1])
    np.testing.assert_allclose(
        draw.log_w[:1000], -exact_log_prob(state.phi, np.asarray(draw.u, float)[:1000]), atol=2e-3
    )
    weights = np.exp(np.asarray(draw.log_w, float))
    assert weights.std() > 0.3
    assert abs(weights.mean() - 1) < 5 * weights.std() / weights.size**0.5
    assert not draw.is_ref.any()


def window_of(seed, *, feasible):
    """A random window of 100 to 300 tasks in one to three dimensions.

    Every other one fails far from its middle: there the next distribution is held back by the successes,
    elsewhere by its distance alone.
    """
    rng = np.random.default_rng(seed)
    dims, size = int(rng.integers(1, 4)), int(rng.integers(100, 300))
    phi = np.exp(rng.uniform(np.log(1.0), np.log(100.0), 2 * dims))
    a, b = np.split(phi, 2)
    v = np.clip(rng.beta(a, b, (size, dims)), 1e-6, 1 - 1e-6).astype(np.float32)
    away = (v - a / (a + b)) / v.std(axis=0)
    if seed % 2:
        score = away @ rng.normal(size=dims) + rng.normal(size=size)
        share = rng.uniform(0.5, 0.95) if feasible else rng.uniform(0.25, 0.47)
    else:
        score = -(away**2).sum(axis=1) + 0.3 * rng.normal(size=size)
        share = rng.uniform(0.5, 0.53) if feasible else rng.uniform(0.45, 0.49)
    success = score > np.quantile(score, 1 - share)
    config = samplers.DoraemonConfig(success=0.0, max_kl=(0.005, 0.01, 0.005)[dims - 1])
    return config, phi.astype(np.float32), v, success


class Exact:
    """A window's problem in double precision, over logarithms of the parameters, for scipy."""

    def __init__(self, config, phi, v, success):
        self.config, self.phi = config, np.asarray(phi, float)
        v = np.asarray(v, float)[success]
        self.size, self.statistics = len(success), np.concatenate([np.log(v), np.log1p(-v)], axis=1)
        self.base = self.log_prob(self.phi)

    def log_prob(self, phi):
        """Of the tasks that succeeded."""
        return self.statistics @ (phi - 1) - special.betaln(*np.split(phi, 2)).sum()

    def kl(self, phi):
        return exact_kl(self.phi, phi)

    def width(self, phi):
        return exact_kl(phi, np.ones_like(phi))

    def share(self, phi):
        return float(np.exp(self.log_prob(phi) - self.base).sum()) / self.size

    def solved(self, objective, constraints):
        """By trust-constr, over coordinates in which KL(phi | phi') is about |x|^2 / 2."""
        a, b = np.split(self.phi, 2)
        both = special.polygamma(1, a + b)
        fisher = np.block([
            [np.diag(special.polygamma(1, a) - both), np.diag(-both)],
            [np.diag(-both), np.diag(special.polygamma(1, b) - both)],
        ])  # fmt: skip
        back = np.linalg.inv(np.linalg.cholesky(fisher)).T

        def at(x):
            return np.clip(self.phi + back @ x, 0.8, 110.0)

        bounds = optimize.LinearConstraint(back, 0.8 - self.phi, 110.0 - self.phi)
        others = [
            optimize.NonlinearConstraint(lambda x, f=f: f(at(x)), low, high) for f, low, high in constraints
        ]
        result = optimize.minimize(
            lambda x: objective(at(x)), np.zeros(self.phi.size), method="trust-constr",
            constraints=[bounds, *others], options={"gtol": 1e-6, "xtol": 1e-8, "maxiter": 200},
        )  # fmt: skip
        return at(result.x)


def stepped(config, phi, v, success, reached=TRUE):
    rest = 300 - len(v)  # windows of one shape, filled up with tasks that do not count
    window = Window(
        jnp.asarray(np.pad(v, ((0, rest), (0, 0)), constant_values=0.999)),
        jnp.asarray(np.pad(success, (0, rest), constant_values=True)),
        np.arange(300) < len(v),
    )
    return next_distribution(config, jnp.asarray(phi), window, reached, TRUE)


@pytest.mark.parametrize("seed", range(8))
def test_the_step_against_trust_constr(seed):
    config, phi, v, success = window_of(seed, feasible=True)
    exact, step = Exact(config, phi, v, success), stepped(config, phi, v, success)
    ours = np.asarray(step.phi, float)
    assert exact.kl(ours) <= config.max_kl + 1e-4
    assert exact.share(ours) >= 0.5 - 1e-4
    theirs = exact.solved(exact.width, [(exact.kl, -np.inf, config.max_kl), (exact.share, 0.5, np.inf)])
    assert exact.width(ours) <= exact.width(theirs) + 1e-3
    assert bool(step.moved)
    assert exact.width(ours) < exact.width(phi)
    assert float(step.kl) == pytest.approx(exact.kl(ours), abs=1e-5)
    assert float(step.next_share) == pytest.approx(exact.share(ours), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_window_with_too_few_successes_maximises_their_share(seed):
    config, phi, v, success = window_of(seed, feasible=False)
    exact, step = Exact(config, phi, v, success), stepped(config, phi, v, success)
    ours = np.asarray(step.phi, float)
    best = exact.solved(lambda x: -exact.share(x), [(exact.kl, -np.inf, config.max_kl - 1e-5)])
    assert exact.kl(ours) <= config.max_kl + 1e-4
    assert not bool(step.feasible)
    if exact.share(best) < 0.5:
        assert exact.share(ours) >= exact.share(best) - 1e-4
    else:
        assert exact.share(ours) >= 0.5 - 1e-4
        theirs = exact.solved(exact.width, [(exact.kl, -np.inf, config.max_kl), (exact.share, 0.5, np.inf)])
        assert exact.width(ours) <= exact.width(theirs) + 1e-3


def test_no_step_before_a_window_succeeds_and_none_without_a_success():
    config, phi, v, success = window_of(0, feasible=False)
    for step in (
        stepped(config, phi, v, success, reached=FALSE),
        stepped(config, phi, v, np.zeros_like(success)),
    ):
        np.testing.assert_array_equal(step.phi, phi)
        assert not bool(step.moved)


def played(returns_of, iterations, n, config, family=FAMILY):
    sampler = samplers.doraemon(family, 0.05, config)

    def iteration(state, key):
        state, draw = sampler.sample(state, key, n)
        return sampler.update(state, draw, Feedback(returns_of(draw.u)), key)

    @jax.jit
    def run(first, others):
        return jax.lax.scan(iteration, sampler.init(first), jax.random.split(others, iterations))

    return jax.device_get(run(jax.random.key(0), jax.random.key(1)))


def test_it_ends_at_the_prior_where_all_succeed():
    """After about 46 steps: a step is 0.1 long, and from Beta(100, 100) the way is 3.25 in each dimension."""
    state, metrics = played(
        lambda u: jnp.ones(u.shape[0]), 80, 50, samplers.DoraemonConfig(0.0, batch_size=50)
    )
    assert float(metrics["kl_prior"][-1]) < 0.01
    assert (np.diff(metrics["kl_prior"])[:30] < 0).all()
    assert 42 <= int(state.updates) <= 52
    np.testing.assert_allclose(state.phi, 1.0, atol=0.2)


def test_it_stays_where_half_succeed():
    """Tasks up to 0.6 in both dimensions succeed: all at the start, 36 % of the prior."""
    config = samplers.DoraemonConfig(0.0, max_kl=0.02)
    state, metrics = played(lambda u: 0.6 - u.max(axis=1), 100, 200, config)
    assert float(metrics["success"][0]) == 1.0
    assert np.asarray(metrics["success"])[-50:].mean() == pytest.approx(0.5, abs=0.03)
    assert int(state.updates) > 30


def test_windows_close_after_so_many_tasks_that_did_not_diverge():
    options = samplers.DoraemonConfig(0.0, batch_size=20)
    sampler = jitted(samplers.doraemon(FAMILY, 0.05, options))
    state, draw = sampler.sample(sampler.init(jax.random.key(0)), jax.random.key(1), 8)
    returns = np.asarray([1.0, np.nan, 1.0, 1.0, -1.0, 1.0, np.nan, 1.0], np.float32)
    seen = []
    for _ in range(4):
        before = state
        state, metrics = sampler.update(state, draw, Feedback(returns), jax.random.key(0))
        seen.append((int(state.cursor), int(state.updates), float(metrics["window_success"])))
    assert [(cursor, updates) for cursor, updates, _ in seen] == [(6, 0), (12, 0), (18, 0), (0, 1)]
    assert np.isnan([share for *_, share in seen[:3]]).all()
    assert seen[3][2] == pytest.approx(20 / 24)
    valid = ~np.isnan(returns)
    np.testing.assert_allclose(
        np.asarray(before.v)[:18], np.tile(np.asarray(draw.u)[valid], (3, 1)), atol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(before.success)[:18], np.tile(returns[valid] >= 0, 3))


def test_diverged_tasks_are_no_success_whatever_their_return():
    sampler = jitted(samplers.doraemon(FAMILY, 0.05, samplers.DoraemonConfig(0.0, batch_size=20)))
    state, draw = sampler.sample(sampler.init(jax.random.key(0)), jax.random.key(1), 8)
    diverged = np.arange(8) < 3
    feedback = Feedback(np.ones(8, np.float32), diverged=diverged)
    state, metrics = sampler.update(state, draw, feedback, jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(state.success)[:8], ~diverged)
    assert float(metrics["success"]) == pytest.approx(5 / 8)


def test_a_prior_that_is_not_uniform_is_met_by_its_quantiles():
    noise = tasks.exponential("noise", 0.1)
    sampler = jitted(samplers.make("doraemon", noise, 0.05, CONFIG))
    state = sampler.init(jax.random.key(0))
    _, draw = sampler.sample(state, jax.random.key(1), 4000)
    assert float(np.median(draw.task)) == pytest.approx(0.1 * np.log(2), rel=0.02)
    wide = state._replace(state=state.state._replace(phi=np.ones(2, np.float32)))
    _, draw = sampler.sample(wide, jax.random.key(1), 4000)
    assert stats.kstest(np.asarray(draw.task)[:, 0], stats.expon(scale=0.1).cdf).pvalue > 1e-3
    np.testing.assert_allclose(draw.log_w, 0.0, atol=1e-5)


def test_what_has_no_box_is_rejected():
    with pytest.raises(ValueError, match="sampler=doraemon needs a prior with quantiles"):
        samplers.doraemon(tasks.categorical(("k",), [[0.0], [1.0]]), 0.05, CONFIG)
