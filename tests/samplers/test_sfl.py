"""Sampling for learnability: the closed form, the tasks that it picks, and what is drawn of them."""

import functools
import re

import jax
import numpy as np
import pytest
from jitted import jitted
from scipy import stats

from roml_jax import samplers, tasks
from roml_jax.samplers.sfl import learnability
from roml_jax.types import Feedback

STRICT = True
FAMILY = tasks.beta("x", 0.0, 1.0)
OPTIONS = samplers.SflConfig(candidates=40, rollouts=4, top=6, share=0.5)


@functools.cache
def compiled():
    """The sampler with each function in one program; one for all tests."""
    return jitted(samplers.make("sfl", FAMILY, 0.2, OPTIONS))


def passed(returns_of):
    """(sampler, state before, state after, candidates' u) of a pass; returns_of(u (m,)) -> (m, R)."""
    sampler = compiled()
    before, draw = sampler.scoring.propose(sampler.init(jax.random.key(0)), jax.random.key(1))
    u = np.asarray(draw.u)[:, 0]
    returns = np.asarray(returns_of(u), np.float32).reshape(-1)
    after = sampler.scoring.scored(before, draw, Feedback(returns), jax.random.key(2))
    return sampler, before, after, u


def test_learnability_is_the_formula_by_hand():
    returns = np.random.default_rng(0).normal(size=(50, 5)) * np.linspace(0.1, 2, 50)[:, None]
    mean = returns.mean(axis=1)
    expected = returns.std(axis=1) / np.sqrt(5) * stats.norm(mean.mean(), mean.std()).pdf(mean)
    np.testing.assert_allclose(jax.jit(learnability)(returns.astype(np.float32)), expected, rtol=2e-5)


def test_it_picks_the_tasks_of_highest_learnability():
    """With equal means the spread decides; with a constant spread the distance from the mean of means."""
    swing = np.array([-1.0, 1.0, -1.0, 1.0])
    _, _, state, u = passed(lambda u: 10 * u[:, None] * swing)
    np.testing.assert_allclose(np.asarray(state.state.u)[:, 0], np.sort(u)[::-1][:6])
    np.testing.assert_allclose(state.state.learnability, 10 * np.sort(u)[::-1][:6] / 2, rtol=1e-5)
    _, _, state, u = passed(lambda u: 3 * u[:, None] + 0.1 * swing)
    nearest = u[np.argsort(np.abs(u - u.mean()))[:6]]
    np.testing.assert_allclose(np.asarray(state.state.u)[:, 0], nearest)
    assert int(state.state.count) == 6
    assert int(state.state.passes) == 1


def test_a_share_of_no_task_is_refused():
    sampler = samplers.make("sfl", FAMILY, 0.05, samplers.SflConfig(share=0.2))
    state = sampler.init(jax.random.key(0))
    with pytest.raises(ValueError, match=re.escape("sampler.share=0.2 of num_tasks=2 is no task")):
        sampler.sample(state, jax.random.key(1), 2)


def test_diverged_candidates_are_not_picked_and_do_not_count():
    def returns(u):
        made = 10 * u[:, None] * np.array([-1.0, 1.0, -1.0, 1.0])
        made[u > 0.5, 2] = np.nan
        return made

    _, _, state, u = passed(returns)
    np.testing.assert_allclose(np.asarray(state.state.u)[:, 0], np.sort(u[u <= 0.5])[::-1][:6])
    # flagged instead of NaN: the same
    sampler, before, _, _ = passed(returns)
    draw = sampler.scoring.propose(before, jax.random.key(1))[1]
    made = returns(np.asarray(draw.u)[:, 0]).reshape(-1)
    feedback = Feedback(np.nan_to_num(made).astype(np.float32), None, None, np.isnan(made))
    again = sampler.scoring.scored(before, draw, feedback, jax.random.key(2))
    np.testing.assert_array_equal(again.state.u, state.state.u)
    # all of them: nothing changes but the count of passes
    _, before, after, _ = passed(lambda u: np.full((40, 4), np.nan))
    np.testing.assert_array_equal(after.state.u, before.state.u)
    assert (int(after.state.count), int(after.state.passes)) == (0, 1)

    # fewer than the best are left: only these are drawn
    def of_two(u):
        return np.where((u <= np.sort(u)[1])[:, None], np.array([-1.0, 1.0, -1.0, 1.0]), np.nan)

    sampler, _, few, u = passed(of_two)
    drawn = np.asarray(sampler.sample(few, jax.random.key(3), 100)[1].u)[:50, 0]
    assert set(drawn.tolist()) == set(np.sort(u)[:2].tolist())


def test_half_of_a_batch_comes_from_the_best_without_replacement():
    sampler, before, state, _ = passed(lambda u: 10 * u[:, None] * np.array([-1.0, 1.0, -1.0, 1.0]))
    assert bool(np.asarray(sampler.sample(before, jax.random.key(3), 12)[1].is_ref).all())
    _, draw = sampler.sample(state, jax.random.key(3), 12)
    np.testing.assert_array_equal(draw.is_ref, np.arange(12) >= 6)
    best = np.asarray(state.state.u)[:, 0]
    assert sorted(np.asarray(draw.u)[:6, 0].tolist()) == sorted(best.tolist())
    _, draw = sampler.sample(state, jax.random.key(4), 20_000)
    taken = np.asarray(draw.u)[:10_000, 0]
    counts = np.array([(taken == u).sum() for u in best])
    assert counts.sum() == 10_000
    assert counts.max() - counts.min() <= 1
    assert stats.kstest(np.asarray(draw.u)[10_000:, 0], "uniform").pvalue > 1e-3
    assert bool(np.asarray(sampler.weights(state, draw, np.zeros(20_000)).keep).all())


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"sampler.top \(300\) must not exceed"):
        samplers.SflConfig(top=300)
    with pytest.raises(ValueError, match=r"sampler.rollouts must be at least 2"):
        samplers.SflConfig(rollouts=1)
