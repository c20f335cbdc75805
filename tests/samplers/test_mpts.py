"""MPTS: what is chosen among the candidates, and when the choice begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import samplers, tasks
from roml_jax.samplers import risk_network
from roml_jax.samplers.mpts import MptsConfig, best_and_others
from roml_jax.samplers.risk_network import RiskNetworkConfig

STRICT = True
FAMILY, N = tasks.log_beta(("a", "b"), bound=None), 16


def compiled(family=FAMILY, **options):
    """A sampler whose functions are jitted."""
    made = samplers.mpts(family, 0.05, MptsConfig(**options))
    return made._replace(
        init=jax.jit(made.init), sample=jax.jit(made.sample, static_argnums=2), update=jax.jit(made.update)
    )


def learned(sampler, iterations=30):
    """(state, metrics) after batches whose return is minus the first coordinate of u."""
    state, metrics = sampler.init(jax.random.key(0)), {}
    for key in jax.random.split(jax.random.key(1), iterations):
        state, draw = sampler.sample(state, key, N)
        state, metrics = sampler.update(state, draw, -draw.u[:, 0], key, 0.5)
    return state, metrics


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_half_are_the_best_and_the_others_are_the_first_of_what_is_left(n):
    for seed in range(20):
        score = np.random.default_rng(seed).normal(size=int(1.5 * n))
        index = np.asarray(best_and_others(jnp.asarray(score), n))
        best = np.argsort(-score)[: n // 2]
        np.testing.assert_array_equal(index[: n // 2], best)
        rest = [i for i in range(score.size) if i not in best]
        np.testing.assert_array_equal(index[n // 2 :], rest[: n - n // 2])
        assert len(set(index.tolist())) == n


def test_no_task_is_drawn_twice():
    sampler = compiled()
    state, _ = learned(sampler)
    draws = jax.jit(jax.vmap(lambda key: sampler.sample(state, key, N)[1].u))
    for u in np.asarray(draws(jax.random.split(jax.random.key(2), 50))):
        assert len(np.unique(u, axis=0)) == N


def test_the_score_is_mean_and_spread_over_the_latent():
    """The 8 of 24 candidates that score best are drawn, whichever weights the score has."""
    state, _ = learned(compiled())
    for mean_weight, std_weight in ((1.0, 5.0), (1.0, 0.0)):
        sampler = compiled(mean_weight=mean_weight, std_weight=std_weight)
        key = jax.random.key(7)
        _, draw = sampler.sample(state, key, N)
        candidates_key, choice_key = jax.random.split(key)
        u = FAMILY.proposal.sample(FAMILY.proposal.phi0, candidates_key, 24)
        z = risk_network.draw(state.network.posterior, choice_key, 50)
        predicted = np.asarray(risk_network.decode(state.network.params, u, z), np.float64)
        score = mean_weight * predicted.mean(axis=0) + std_weight * predicted.std(axis=0, ddof=1)
        best = np.asarray(u)[np.argsort(-score)[: N // 2]]
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
            state, draw = sampler.sample(state, jax.random.key(i), 4)
            assert bool(draw.is_ref.all()) == bool(draw.is_ref.any())
            warm.append(bool(draw.is_ref.all()))
            # what an update sets of it (below)
            state = state._replace(updates=state.updates + 1, progress=jnp.asarray(i / 20))
        assert warm == [i <= last_warm for i in range(20)], options


def test_without_progress_the_warm_up_is_the_first_batch():
    sampler = compiled()
    state, draw = sampler.sample(sampler.init(jax.random.key(0)), jax.random.key(1), N)
    assert draw.is_ref.all()
    state, _ = sampler.update(state, draw, -draw.u[:, 0], jax.random.key(2))
    assert (int(state.updates), float(state.progress)) == (1, 1.0)
    assert not sampler.sample(state, jax.random.key(3), N)[1].is_ref.any()


def test_hard_tasks_are_half_as_frequent_again():
    """With 1.5 candidates a task, half of the draw is the hardest third, the other half from what is left."""
    sampler = compiled(std_weight=0.0)  # by the mean alone, which this return's order is known for
    state, metrics = learned(sampler, iterations=60)
    assert float(metrics["correlation"]) > 0.9
    _, draw = sampler.sample(state, jax.random.key(3), 4000)
    hard = np.asarray(draw.u[:, 0] > 1 - 0.2)
    assert hard.mean() == pytest.approx(0.3, abs=0.02)
    assert hard[:2000].mean() > 0.55
    assert float(sampler.phi(state)[0]) > 0.5


def test_diverged_and_infinite_returns_leave_everything_finite():
    sampler = compiled()
    state = sampler.init(jax.random.key(0))
    for i, returns in enumerate((
        jnp.full(N, jnp.nan), jnp.zeros(N).at[3].set(-jnp.inf), jnp.full(N, -jnp.inf), jnp.zeros(N),
        jnp.asarray(np.linspace(-3e38, 3e38, N), jnp.float32), jnp.zeros(N).at[:15].set(jnp.nan),
    )):  # fmt: skip
        state, draw = sampler.sample(state, jax.random.key(i), N)
        before = state.network
        state, metrics = sampler.update(state, draw, returns, jax.random.key(i), 0.5)
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
    state = compiled(family).init(jax.random.key(0))
    u = family.proposal.sample(family.proposal.phi0, jax.random.key(1), 4000)
    x = np.asarray(state.coordinates(u))
    np.testing.assert_allclose(x.mean(axis=0), 0.5, atol=0.04)
    np.testing.assert_allclose(x.std(axis=0), 12**-0.5, rtol=0.12)
    unit = compiled().init(jax.random.key(0))
    point = jnp.array([[0.25, 0.875]])
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
