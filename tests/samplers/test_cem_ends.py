"""The cross-entropy method at its ends: no scores, infinite ones, proposals that would run away."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import cem, proposals, risk
from roml_jax.types import TaskDraw

SIZE = 16
UNIFORM_U = np.linspace(0.02, 0.98, SIZE, dtype=np.float32)[:, None]
BETA = proposals.beta(1)
PROPOSALS = {
    "beta": BETA,
    "broken": BETA._replace(fit=lambda u, weights: jnp.full(1, jnp.nan)),
}
NO_REFS = np.zeros(SIZE, bool)


@functools.cache
def closing(proposal, **options):
    config = cem.CemConfig(batch_size=SIZE, soft=0.0, history=1, **options)

    @jax.jit
    def run(phi, u, log_w, scores, alpha):
        state = cem.init(config, PROPOSALS[proposal], jax.random.key(0))._replace(phi=phi)
        draw = TaskDraw(u, u, log_w, NO_REFS)
        key = jax.random.key(1)
        state, metrics = cem.update(config, PROPOSALS[proposal], state, draw, scores, key, alpha)
        return state.phi, metrics

    return run


def close(scores, proposal="beta", log_w=None, alpha=0.05, **options):
    """One batch of draws at ``UNIFORM_U`` with phi at 0.8: (phi, metrics)."""
    log_w = np.zeros(SIZE, np.float32) if log_w is None else log_w
    scores = np.asarray(scores, np.float32)
    phi = np.array([0.8], np.float32)
    return jax.device_get(closing(proposal, **options)(phi, UNIFORM_U, log_w, scores, alpha))


@pytest.mark.parametrize(
    "options", [{}, {"ref_mode": "none"}, {"optimise": True}, {"threshold": 3.0}, {"ref_mode": "train_ref"}]
)
def test_a_batch_without_a_score_selects_nothing_and_leaves_phi(options):
    phi, metrics = close(np.full(SIZE, np.nan), **options)
    assert phi == np.float32(0.8)
    assert metrics.selected_share == 0
    assert metrics.diverged == SIZE


def test_tasks_without_a_score_never_fill_the_share():
    """Two of sixteen have scores, both equal: they are the selection, not the three of min_share."""
    scores = np.full(SIZE, np.nan)
    scores[[4, 9]] = 1.0
    phi, metrics = close(scores)
    assert metrics.selected_share == 2 / SIZE
    assert phi[0] == pytest.approx(float(UNIFORM_U[[4, 9]].mean()), abs=1e-6)


def test_infinite_scores_are_the_worst_and_the_best():
    scores = np.r_[[-np.inf] * 3, np.zeros(10), [np.inf] * 3]
    phi, metrics = close(scores)
    assert metrics.selected_share == 3 / SIZE
    assert phi[0] == pytest.approx(float(UNIFORM_U[:3].mean()), abs=1e-6)


def test_a_risk_level_of_one_leaves_out_the_best_task_as_the_reference_does():
    phi, metrics = close(np.arange(SIZE, dtype=float), alpha=1.0)
    assert metrics.selected_share == 15 / SIZE
    assert phi[0] == pytest.approx(float(UNIFORM_U[:-1].mean()), abs=1e-6)
    assert close(np.zeros(SIZE), alpha=1.0)[1].selected_share == 3 / SIZE  # all equal: the minimum share


def test_weights_too_small_for_a_float_still_count_by_their_ratios():
    """exp(-200) is 0 in a float; the three selected tasks weigh 2 to 1 to 1."""
    log_w = np.full(SIZE, -200.0, np.float32)
    log_w[0] += np.log(2.0)
    phi, metrics = close(np.arange(SIZE, dtype=float), log_w=log_w)
    assert metrics.selected_share == 3 / SIZE  # the minimum share: the weights say nothing of the threshold
    expected = (2 * UNIFORM_U[0, 0] + UNIFORM_U[1, 0] + UNIFORM_U[2, 0]) / 4
    assert phi[0] == pytest.approx(float(expected), abs=1e-6)
    phi, _ = close(np.arange(SIZE, dtype=float), log_w=np.full(SIZE, -np.inf, np.float32))
    assert phi == np.float32(0.8)  # no weight at all


def test_a_fit_that_is_not_finite_leaves_phi():
    assert close(np.arange(SIZE, dtype=float), proposal="broken")[0] == np.float32(0.8)


SEARCHES = {
    "exponential": (proposals.exponential(2.0), (2e-3, 2e3)),
    "mixture": (proposals.with_prior(proposals.exponential(2.0), 0.2), (2e-3, 2e3)),
    "product": (proposals.product([proposals.exponential(2.0)]), (2e-3, 2e3)),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_for_a_task_at_infinity_or_zero_stays_finite_and_can_come_back(name):
    """``optimise`` with return -u, then u, then -u: phi goes to a thousand means, a thousandth and back."""
    proposal, (low, high) = SEARCHES[name]
    config = cem.CemConfig(batch_size=SIZE, optimise=True, history=1)

    def batch(state, now):
        key, sign = now
        state, draw = cem.sample(config, proposal, state, key, SIZE)
        state, _ = cem.update(config, proposal, state, draw, sign * draw.u[:, 0], key, 0.05)
        return state, state.phi[0]

    @jax.jit
    def run(first, others, signs):
        start = cem.init(config, proposal, first)
        return jax.lax.scan(batch, start, (jax.random.split(others, 120), signs))[1]

    signs = np.repeat(np.array([-1.0, 1.0, -1.0], np.float32), 40)
    phi = np.asarray(run(jax.random.key(0), jax.random.key(1), signs))
    assert np.isfinite(phi).all()
    if name != "mixture":  # a fifth of whose draws are the prior's, and so among the lowest
        assert float(phi[39]) == pytest.approx(high)
    assert low <= float(phi[79]) < 0.3
    assert float(phi[119]) > 20


@pytest.mark.parametrize(
    "proposal",
    [proposals.gaussian((0.0,), (2.0,)), proposals.gaussian_full((0.0,), ((4.0,),))],
    ids=["gaussian", "full"],
)
def test_a_normal_is_fitted_within_a_thousand_deviations(proposal):
    far, fit = np.array([[-1e30], [3.0], [1e30]], np.float32), jax.jit(proposal.fit)
    for weights in ([1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1e-30, 1e-30, 1e-30]):
        mean, spread = np.asarray(fit(far, np.array(weights, np.float32)))
        std = np.exp(spread) if proposal.low[1] != 0 else spread
        assert abs(mean) <= 2000 * (1 + 1e-6)
        assert 0.002 * (1 - 1e-3) <= std <= 2000 * (1 + 1e-3)


def test_a_categorical_fitted_to_one_task_keeps_its_floor():
    fit = jax.jit(proposals.categorical((0.5, 0.3, 0.2)).fit)
    phi = fit(np.array([[2.0], [1.0]], np.float32), np.array([1e-30, 0.0], np.float32))
    np.testing.assert_allclose(phi, [1e-3 / 3, 1e-3 / 3, 1 - 2e-3 / 3], rtol=1e-5)


def test_quantiles_and_cvar_of_nothing():
    @jax.jit
    def figures(x, none, zeros):
        return (
            (risk.quantile(x, 0.5, none), risk.weighted_quantile(x, jnp.ones(3), 0.5, none)),
            (risk.cvar(x, 0.5, none), risk.tail_level(jnp.zeros(()), x, none)),
            risk.weighted_quantile(x, zeros, 0.5),
        )

    x = np.arange(3, dtype=np.float32)
    quantiles, (cvar, level), unweighted = figures(x, np.zeros(3, bool), np.zeros(3, np.float32))
    assert float(quantiles[0]) == float(quantiles[1]) == np.inf
    assert np.isnan(cvar)
    assert np.isnan(level)
    assert float(unweighted) == 1.0  # without any weight, all count alike
