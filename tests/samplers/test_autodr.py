"""AutoDR: its ends move as scripted returns say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from roml_jax import samplers, tasks
from roml_jax.samplers.autodr import moved
from roml_jax.types import Feedback

FAMILY = tasks.log_beta(("a", "b"))
CONFIG = samplers.AutodrConfig(success=1.0, failure=0.5, batch_size=4, delta=0.1)
N = 64
STRICT = True
move = jax.jit(moved, static_argnums=0)


@functools.cache
def compiled(config):
    """A sampler with each function in one program; one for all tests."""
    return jitted(samplers.autodr(FAMILY, 0.05, config))


def started(ends=((0.4, 0.3), (0.6, 0.9)), *, config=CONFIG, reached=True):
    sampler = compiled(config)
    state = sampler.init(jax.random.key(0))
    return sampler, state._replace(ends=np.asarray(ends, np.float32), reached=np.asarray(reached))


def scripted(sampler, state, script, key=1):
    """One iteration; ``script`` has the return at every end (2, d); inside it is 0.75, good nor bad."""
    after, draw = sampler.sample(state, jax.random.key(key), N)
    u, ends = np.asarray(draw.u), np.asarray(state.ends)
    at = np.abs(u[:, None] - np.clip(ends, 1e-6, 1 - 1e-6)[None]) < 1e-7  # (n, 2, d): the ends are apart
    returns = np.where(at, np.asarray(script)[None], 0).sum(axis=(1, 2))
    returns = np.where(at.any(axis=(1, 2)), returns, 0.75)
    feedback = Feedback(returns.astype(np.float32))
    return jax.device_get(sampler.update(after, draw, feedback, jax.random.key(0))), at


def test_ends_widen_narrow_and_stay():
    sampler, state = started()
    (after, metrics), at = scripted(sampler, state, [[1.0, 0.5], [0.75, 2.0]])
    assert (at.sum(axis=0) >= CONFIG.batch_size).all()
    np.testing.assert_allclose(after.ends, [[0.3, 0.4], [0.6, 1.0]], atol=1e-6)
    assert int(metrics["updates"]) == 3
    assert not after.count.any()  # every buffer was full, also that of the end that stayed
    assert not after.total.any()


def test_half_the_draws_have_one_dimension_at_an_end():
    sampler, state = started()
    draw = jax.device_get(sampler.sample(state, jax.random.key(3), 20_000)[1])
    at = np.abs(np.asarray(draw.u)[:, None] - np.asarray(state.ends)[None]) < 1e-7
    assert set(at.sum(axis=(1, 2))) == {0, 1}
    np.testing.assert_allclose(at.mean(axis=0), 0.125, atol=0.01)
    inside = np.asarray(draw.u)[~at.any(axis=(1, 2))]
    np.testing.assert_allclose(inside.mean(axis=0), [0.5, 0.6], atol=0.005)
    low, high = np.asarray(state.ends)
    assert (inside >= low).all()
    assert (inside <= high).all()
    assert not draw.is_ref.any()
    assert not draw.log_w.any()


def test_a_buffer_is_kept_until_it_is_full_and_emptied_then():
    config = samplers.AutodrConfig(success=1.0, failure=0.5, batch_size=12, delta=0.1)
    sampler, state = started(config=config)
    script, met = [[2.0, 2.0], [2.0, 2.0]], np.zeros((2, 2), int)
    for i in range(4):
        (state, _), at = scripted(sampler, state, script, key=i)
        met += at.sum(axis=0)
        np.testing.assert_array_equal(np.asarray(state.count), np.where(met >= 12, 0, met))
        np.testing.assert_allclose(state.total, 2.0 * np.asarray(state.count))
        met = np.where(met >= 12, 0, met)
    assert float(state.ends[0, 0]) < 0.4


def test_the_mean_of_the_buffer_decides():
    """Returns of 3 in one iteration and of -3 in the next: means between the thresholds, so nothing moves."""
    config = samplers.AutodrConfig(success=2.9, failure=-2.9, batch_size=12, delta=0.1)
    sampler, state = started(config=config)
    first = state.ends
    for key, value in ((0, 3.0), (1, -3.0)):
        (state, _), at = scripted(sampler, state, [[value, value], [value, value]], key=key)
        assert (at.sum(axis=0) < 12).all()
    assert (np.asarray(state.count) == 0).any()
    np.testing.assert_array_equal(state.ends, first)


def test_only_full_buffers_decide():
    mean, full = np.array([[1.0, 1.0], [0.5, 0.75]]), np.array([[True, False], [True, True]])
    after = move(CONFIG, np.array([[0.4, 0.3], [0.6, 0.9]]), mean, full)
    np.testing.assert_allclose(after, [[0.3, 0.3], [0.5, 0.9]], atol=1e-6)


def test_ends_stop_at_the_range_and_at_each_other():
    sampler, state = started(((0.05, 0.5), (0.97, 0.55)))
    (state, _), _ = scripted(sampler, state, [[2.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(state.ends, [[0.0, 0.55], [1.0, 0.55]], atol=1e-6)


def test_nothing_moves_before_success_is_first_reached():
    sampler, state = started(reached=False)
    (state, metrics), _ = scripted(sampler, state, [[0.9, 0.9], [0.0, 0.9]])
    assert int(metrics["updates"]) == 0
    assert not state.count.any()
    assert not bool(state.reached)
    (state, metrics), _ = scripted(sampler, state, [[9.0, 9.0], [9.0, 9.0]])  # the mean is above 1
    assert bool(state.reached)
    assert int(metrics["updates"]) == 4


def test_it_starts_as_a_point_and_widens_in_both_directions():
    sampler = samplers.make("autodr", FAMILY, 0.05, CONFIG)

    def step(state, key):
        state, draw = sampler.sample(state, key, N)
        returns = jnp.where(draw.u[:, 0] < 0.7, 2.0, 0.0)  # hard from 0.7 on, in the first dimension alone
        state, _ = sampler.update(state, draw, Feedback(returns), key)
        return state, sampler.phi(state)

    @jax.jit
    def run(first, others):
        state = sampler.init(first)
        return sampler.phi(state), jax.lax.scan(step, state, jax.random.split(others, 40))[1]

    start, phi = run(jax.random.key(0), jax.random.key(1))
    assert start.tolist() == [0.5] * 4
    low_a, low_b, high_a, high_b = np.asarray(phi).T
    assert low_a[-1] == low_b[-1] == 0.0
    assert high_b[-1] > 0.95
    assert abs(high_a[-1] - 0.7) < 0.11  # to and fro around what succeeds
    assert high_a.max() < 0.81


def test_diverged_tasks_enter_no_buffer():
    sampler, state = started()
    after, draw = sampler.sample(state, jax.random.key(1), N)
    feedback = Feedback(np.full(N, np.nan, np.float32))
    state, metrics = jax.device_get(sampler.update(after, draw, feedback, jax.random.key(0)))
    assert not state.count.any()
    assert int(metrics["updates"]) == 0
    assert np.isfinite(np.asarray(state.total)).all()


def test_diverged_tasks_fail_also_with_a_good_return():
    """The rollout gives them the worst return of the iteration, which is good while the box is narrow."""
    sampler, state = started()
    good, diverged = np.full(N, 2.0, np.float32), np.ones(N, bool)
    after, draw = sampler.sample(state, jax.random.key(1), N)
    ends = {}
    for name, flags in (("well", ~diverged), ("badly", diverged)):
        told, _ = sampler.update(after, draw, Feedback(good, diverged=flags), jax.random.key(0))
        ends[name] = np.asarray(told.ends)
    np.testing.assert_allclose(ends["well"], [[0.3, 0.2], [0.7, 1.0]], atol=1e-6)
    np.testing.assert_allclose(ends["badly"], [[0.5, 0.4], [0.5, 0.8]], atol=1e-6)


def test_failure_is_half_of_success():
    half = samplers.AutodrConfig(success=3.0)
    ends = np.array([[0.4], [0.6]])
    after = move(half, ends, np.array([[1.5], [1.51]]), np.ones((2, 1), bool))
    np.testing.assert_allclose(after, [[0.408], [0.6]], atol=1e-6)


def test_what_has_no_box_is_rejected():
    with pytest.raises(ValueError, match="sampler=autodr needs a prior with quantiles"):
        samplers.autodr(tasks.categorical(("k",), [[0.0], [1.0]]), 0.05, CONFIG)
