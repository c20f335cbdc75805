"""MPTS: what is chosen among the candidates, and when the choice begins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from roml_jax import samplers, tasks
from roml_jax.samplers import risk_network
from roml_jax.samplers.mpts import MptsConfig, best_and_others
from roml_jax.samplers.risk_network import RiskNetworkConfig

STRICT = True
FAMILY, N = tasks.log_beta(("a", "b"), bound=None), 16


@functools.cache
def compiled(**options):
    """A sampler whose functions are jitted; one for all tests, so that they share its programs."""
    return jitted(samplers.mpts(FAMILY, 0.05, MptsConfig(**options)))


@functools.cache
def learned(iterations=30, **options):
    """(state, metrics) after batches whose return is minus the first coordinate of u."""
    sampler = compiled(**options)
    state, metrics = sampler.init(jax.random.key(0)), {}
    for key in jax.random.split(jax.random.key(1), iterations):
        state, draw = sampler.sample(state, key, N)
        state, metrics = sampler.update(state, draw, -np.asarray(draw.u)[:, 0], key, 0.5)
    return state, metrics


choice = jax.jit(best_and_others, static_argnums=1)


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_half_are_the_best_and_the_others_are_the_first_of_what_is_left(n):
    for seed in range(20):
        score = np.random.default_rng(seed).normal(size=int(1.5 * n))
        index = np.asarray(choice(score, n))
        best = np.argsort(-score)[: n // 2]
        np.testing.assert_array_equal(index[: n // 2], best)
        rest = [i for i in range(score.size) if i not in best]
        np.testing.assert_array_equal(index[n // 2 :], rest[: n - n // 2])
        assert len(set(index.tolist())) == n


def test_no_task_is_drawn_twice():
    sampler = compiled()
    state, _ = learned()

    @jax.jit
    def draws(state, key):
        return jax.vmap(lambda key: sampler.sample(state, key, N)[1].u)(jax.random.split(key, 50))

    for u in np.asarray(draws(state, jax.random.key(2))):
        assert len(np.unique(u, axis=0)) == N


def test_the_score_is_mean_and_spread_over_the_latent():
    """The 8 of 24 candidates that score best are drawn, whichever weights the score has."""
    state, _ = learned()

    @jax.jit
    def predictions(state, key):
        candidates_key, choice_key = jax.random.split(key)
        u = FAMILY.proposal.sample(FAMILY.proposal.phi0, candidates_key, 24)
        z = risk_network.draw(state.network.posterior, choice_key, 50)
        return u, risk_network.decode(state.network.params, u, z)

    for mean_weight, std_weight in ((1.0, 5.0), (1.0, 0.0)):
        sampler = compiled(mean_weight=mean_weight, std_weight=std_weight)
        key = jax.random.key(7)
        _, draw = sampler.sample(state, key, N)
        u, predicted = predictions(state, key)
        predicted = np.asarray(predicted, np.float64)
        score = mean_weight * predicted.mean(axis=0) + std_weight * predicted.std(axis=0, ddof=1)
        best = np.asarray(u)[np.argsort(-score)[: N // 2]]
        draw = jax.device_get(draw)
        np.testing.assert_allclose(draw.u[: N // 2], best, rtol=1e-5)
        assert not draw.is_ref.any()
        assert not draw.log_w.any()


def test_the_warm_up_is_a_share_of_the_run_or_a_number_of_iterations():
    first = compiled().init(jax.random.key(0))
    for options, last_warm in (
        ({}, 2),  # a tenth of 20 iterations; the sampler hears of an iteration's progress when it is over
        ({"warmup_iterations": 5}, 4),
        ({"warmup": 1.0}, 19),
    ):
        sampler, state, warm = compiled(**options), first, []
        for i in range(20):
            state, draw = sampler.sample(state, jax.random.key(i), N)
            is_ref = np.asarray(draw.is_ref)
            assert bool(is_ref.all()) == bool(is_ref.any())
            warm.append(bool(is_ref.all()))
            # what an update sets of it (below)
            state = state._replace(updates=state.updates + 1, progress=jnp.asarray(i / 20))
        assert warm == [i <= last_warm for i in range(20)], options


def test_without_progress_the_warm_up_is_the_first_batch():
    sampler = compiled()
    state, draw = sampler.sample(sampler.init(jax.random.key(0)), jax.random.key(1), N)
    assert np.asarray(draw.is_ref).all()
    state, _ = sampler.update(state, draw, -np.asarray(draw.u)[:, 0], jax.random.key(2))
    assert (int(state.updates), float(state.progress)) == (1, 1.0)
    assert not np.asarray(sampler.sample(state, jax.random.key(3), N)[1].is_ref).any()


def test_hard_tasks_are_half_as_frequent_again():
    """With 1.5 candidates a task, half of the draw is the hardest third, the other half from what is left."""
    sampler = compiled(std_weight=0.0)  # by the mean alone, which this return's order is known for
    state, metrics = learned(iterations=60, std_weight=0.0)
    assert float(metrics["correlation"]) > 0.9
    _, draw = sampler.sample(state, jax.random.key(3), 4000)
    hard = np.asarray(draw.u)[:, 0] > 1 - 0.2
    assert hard.mean() == pytest.approx(0.3, abs=0.02)
    assert hard[:2000].mean() > 0.55
    assert float(np.asarray(sampler.phi(state))[0]) > 0.5


def test_half_of_one_task_is_refused():
    sampler = compiled()
    state = sampler.init(jax.random.key(0))
    with pytest.raises(ValueError, match="so num_tasks must be at least 2"):
        sampler.sample(state, jax.random.key(1), 1)


def test_diverged_and_infinite_returns_leave_everything_finite():
    sampler = compiled()
    state = sampler.init(jax.random.key(0))
    at = np.arange(N)
    for i, returns in enumerate((
        np.full(N, np.nan), np.where(at == 3, -np.inf, 0.0), np.full(N, -np.inf), np.zeros(N),
        np.linspace(-3e38, 3e38, N), np.where(at < 15, np.nan, 0.0),
    )):  # fmt: skip
        state, draw = sampler.sample(state, jax.random.key(i), N)
        before = state.network
        state, metrics = sampler.update(state, draw, returns.astype(np.float32), jax.random.key(i), 0.5)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), i
        if i == 0:  # no score, nothing to learn from
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.network), strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            assert np.isfinite(metrics["network_error"])


@pytest.mark.parametrize(
    "family",
    [
        tasks.gaussian(("a", "b"), (300.0, -2.0), (50.0, 0.01)),
        tasks.exponential("noise", 20.0),
        tasks.categorical(("k",), [[float(i)] for i in range(9)]),
    ],
    ids=["gaussian", "exponential", "categorical"],
)
def test_priors_that_are_not_uniform_are_scaled_to_the_unit_intervals_moments(family):
    init = samplers.mpts(family, 0.05, MptsConfig()).init

    @jax.jit
    def of_the_prior(first, second):
        return init(first).coordinates(family.proposal.sample(family.proposal.phi0, second, 4000))

    x = np.asarray(of_the_prior(jax.random.key(0), jax.random.key(1)))
    np.testing.assert_allclose(x.mean(axis=0), 0.5, atol=0.04)
    np.testing.assert_allclose(x.std(axis=0), 12**-0.5, rtol=0.12)
    unit = compiled().init(jax.random.key(0))
    point = np.array([[0.25, 0.875]], np.float32)
    np.testing.assert_array_equal(unit.coordinates(point), point)


def test_options_out_of_range_are_one_line():
    for options, message in (
        ({"candidates": 0.5}, r"sampler\.candidates must be at least 1"),
        ({"draws": 1}, r"sampler\.draws must be at least 2"),
        ({"warmup": 1.5}, r"sampler\.warmup must be in \[0, 1\]"),
        ({"warmup_iterations": -1}, r"sampler\.warmup_iterations must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MptsConfig(**options)
    with pytest.raises(ValueError, match=r"sampler\.network\.lr must be positive"):
        RiskNetworkConfig(lr=0.0)
