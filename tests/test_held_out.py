"""Tests in batches: sizes, order, randomness by place, and returns of diverged episodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import roml_jax
from roml_jax import held_out
from roml_jax.run import best, result
from roml_jax.types import Outcome


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        (256, 128, (128, 128)),  # nothing is tested twice
        (256, 1000, (256, 256)),  # 24 of 1,280
        (256, 300, (128, 128)),  # 84 of 556 are; larger or smaller batches would take longer
        (6, 23, (6, 6)),
        (8, 1000, (8, 1000)),  # few validation tasks stay cheap
        (5000, 5000, (1000, 1000)),  # of so many, a thousand fit in memory
        (None, 3000, (0, 1000)),
        (None, 7, (0, 7)),
    ],
)
def test_evaluations_and_test_have_batches_of_one_size_where_that_pays(validation, test, sizes):
    assert held_out.sizes_for(validation, test) == sizes


def test_devices_divide_the_batches():
    assert held_out.sizes_for(60, 250, devices=8) == (64, 64)
    assert held_out.sizes_for(None, 100, devices=8) == (0, 104)


@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 5), (3, 4), (1, 4), (10, 10)])
def test_cut_and_joined_is_the_whole(n, size):
    whole = held_out.whole(np.arange(2.0 * n).reshape(n, 2), jax.random.key(1))
    pieces = held_out.cut(whole, size)
    assert {one.tasks.shape for one in pieces} == {(size, 2)}
    assert all(np.array_equal(one.key, whole.key) for one in pieces)
    seeds = np.arange(3.0)[:, None, None]  # (R, M, K) of three seeds, K = 2
    fine = np.zeros((3, size, 2), bool)
    outcomes = [Outcome(seeds + one.tasks, fine, {"index": one.index[:, None]}) for one in pieces]
    back = held_out.joined(outcomes, n)
    np.testing.assert_array_equal(back.returns, seeds + whole.tasks)
    np.testing.assert_array_equal(back.terms["index"][:, 0], np.arange(n))


def test_a_diverged_episode_has_the_lowest_return_of_all_batches():
    first = Outcome(np.array([[5.0, 1.0], [7.0, 2.0]]), np.array([[False, False], [False, True]]), {})
    second = Outcome(np.array([[3.0, -4.0], [3.0, 9.0]]), np.array([[False, False], [True, False]]), {})
    found = held_out.joined([first, second], 4).returns
    np.testing.assert_array_equal(found, [[5.0, 1.0], [7.0, -4.0], [3.0, -4.0], [3.0, 9.0]])


def test_an_episode_that_diverged_on_all_tasks_has_no_return():
    """A learner that breaks the simulation in its first steps would have paid the least of all costs."""
    broken = Outcome(np.array([[-2.0, -80.0], [-1.0, -70.0]]), np.array([[True, False], [True, False]]), {})
    found = held_out.joined([broken], 2)
    np.testing.assert_array_equal(found.returns, [[np.nan, -80.0], [np.nan, -70.0]])
    (row,) = result.of_test(found, roml_jax.make_config("probe_memory", "uniform", "multitask"))
    assert row["diverged"] == 2
    assert np.isnan(row["return_mean"])
    assert np.isnan(row["cvar"])
    assert row["return_episode_1"] == -75.0
    score = np.array([row["return_mean"]], np.float32)
    kept = best.update(best.start(np.zeros(1), 1), np.int32(1), score, score, np.ones(1))
    assert not np.isfinite(np.asarray(kept.mean.score)).any()


@pytest.mark.parametrize(("env", "agent"), [("khazad_dum", "multitask"), ("sine", "maml")])
def test_returns_do_not_depend_on_the_batches(env, agent):
    """Khazad-Dum's steps are random, and so are the examples of sine regression."""
    small = {"ppo.layers": 8} if agent == "multitask" else {}
    config = roml_jax.make_config(env, "uniform", agent, num_tasks=4, frames=1e5, **small)
    parts = roml_jax.experiment.make(config)
    learner = jax.jit(parts.learner.init)(jax.random.key(0))
    tasks, key = held_out.draw(parts.env.family, 24, 1, "test")
    alone = jax.jit(parts.learner.test)(learner, tasks, key)
    on_batch = jax.jit(functools.partial(held_out.on_batch, parts.learner))
    pieces = [on_batch(learner, batch) for batch in held_out.cut(held_out.whole(tasks, key), 7)]
    np.testing.assert_allclose(held_out.joined(pieces, 24).returns, alone.returns, rtol=1e-5)
    again = on_batch(learner, held_out.whole(jnp.flip(tasks, 0), key))
    assert not np.allclose(again.returns[::-1], alone.returns, rtol=1e-3)  # another place is other randomness
