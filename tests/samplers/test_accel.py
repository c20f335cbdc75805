"""ACCEL: replayed batches have children, which are small edits and stay in range."""

import functools

import jax
import numpy as np
import pytest

from roml_jax import samplers, tasks
from roml_jax.samplers.accel import EDITED, NEW, REPLAYED

STRICT = True
N = 64
FAMILIES = {
    "box": tasks.log_beta(("a", "b", "c", "d", "e")),
    "disk": tasks.disk(("x", "y"), 5.0),
    "exponential": tasks.exponential("noise", 0.1),
    "gaussian": tasks.gaussian(("a", "b"), (0.0, 1.0), (1.0, 2.0)),
    "categorical": tasks.categorical(("k",), [[float(i)] for i in range(20)]),
    "mixed": tasks.product(
        {
            "k": tasks.categorical(("k",), [[float(i)] for i in range(20)]),
            "m": tasks.log_beta(("m",)),
        }
    ),
    "product": tasks.product({"mass": tasks.log_beta(("m",)), "noise": tasks.exponential("n", 1.0)}),
}
OPTIONS = samplers.AccelConfig(buffer=N, filled=1.0, replay=0.8, score="negative_return")


@functools.cache
def batches(name, options=OPTIONS, iterations=40):
    """(kinds (T,), draws (T, N, ...), weights (T, N)) of iterations whose returns fall with u."""
    sampler = samplers.get("accel")(FAMILIES[name], 0.2, options)

    def step(state, key):
        state, draw = sampler.sample(state, key, N)
        returns = -draw.u.sum(axis=1)
        keep = sampler.weights(state, draw, returns).keep
        return sampler.update(state, draw, returns, key)[0], (state.kind, draw, keep)

    @jax.jit
    def run(first, others):
        return jax.lax.scan(step, sampler.init(first), jax.random.split(others, iterations))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0), jax.random.key(1)))


def test_children_follow_every_replay_and_only_replayed_tasks_train_the_policy():
    kinds, draw, keep = batches("box")
    replayed = kinds == REPLAYED
    assert kinds[0] == NEW
    np.testing.assert_array_equal(kinds[1:] == EDITED, replayed[:-1])
    chosen = np.concatenate([[False], ~replayed[:-1]])  # iterations in which a coin decided
    assert replayed[chosen][1:].mean() == pytest.approx(0.8, abs=0.25)
    np.testing.assert_array_equal(keep, np.broadcast_to(replayed[:, None], keep.shape))
    np.testing.assert_array_equal(draw.is_ref, np.broadcast_to((kinds == NEW)[:, None], keep.shape))


def test_a_child_is_its_parent_in_all_but_three_dimensions():
    kinds, draw, _ = batches("box")
    first = np.flatnonzero(kinds == EDITED)[0]  # its parents are from the prior: no two share a number
    parents, children = draw.u[first - 1], draw.u[first]
    same = (children[:, None] == parents[None]).sum(axis=-1)
    of = parents[same.argmax(axis=1)]
    np.testing.assert_array_equal((children == of).sum(axis=1), np.full(N, 2))
    # every parent has as many children as it was replayed
    np.testing.assert_array_equal(of[np.lexsort(of.T)], parents[np.lexsort(parents.T)])
    inside = (children > 0.001) & (children < 0.999)
    steps = (children - of)[(children != of) & inside]
    assert steps.std() == pytest.approx(0.05, rel=0.2)
    assert np.abs(steps).max() < 0.25


@pytest.mark.parametrize("name", FAMILIES)
def test_edits_stay_in_range(name):
    family = FAMILIES[name]
    wild = samplers.AccelConfig(buffer=N, filled=1.0, replay=1.0, score="negative_return", step=1.0)
    kinds, draw, _ = batches(name, wild)
    task = draw.task[kinds == EDITED].reshape(-1, len(family.names))
    assert task.shape[0] >= 10 * N
    low, high = np.array(family.ranges).T
    assert (task >= low - 1e-5 * np.abs(low)).all()
    assert (task <= high + 1e-5 * np.abs(high)).all()
    u = draw.u[kinds == EDITED].reshape(-1, family.proposal.dims)
    if family.proposal.uniform_prior:
        assert 0 < u.min() < u.max() < 1
    else:  # no further than the extremes of 4,096 draws from the prior
        sample = jax.jit(family.proposal.sample, static_argnums=2)
        prior = np.asarray(sample(family.proposal.phi0, jax.random.key(5), 100_000))
        assert (u >= prior.min(axis=0)).all()
        assert (u <= prior.max(axis=0)).all()


@pytest.mark.parametrize("name", ["categorical", "mixed"])
def test_the_edit_of_an_index_is_another_task_of_the_set(name):
    kinds, draw, _ = batches(name)
    u = draw.u[kinds == EDITED].reshape(-1, draw.u.shape[-1])[:, 0]
    np.testing.assert_array_equal(u, np.round(u))
    parents = draw.u[np.flatnonzero(kinds == EDITED) - 1].reshape(-1, draw.u.shape[-1])[:, 0]
    assert (
        parents.mean() > 12
    )  # replays are of hard tasks, their edits of the prior, as an index has no neighbour
    assert u.mean() == pytest.approx(9.5, abs=1.0)


def test_the_step_is_in_units_of_the_prior():
    """A uniform distribution of the prior's deviation would have this range."""

    def started(name):
        return jax.jit(samplers.get("accel")(FAMILIES[name], 0.2, OPTIONS).init)(jax.random.key(0))

    for name, std in (("exponential", [0.1]), ("gaussian", [1.0, 2.0])):
        state = started(name)
        np.testing.assert_allclose(state.step, 0.05 * np.sqrt(12) * np.array(std), rtol=0.1)
    state = started("box")
    np.testing.assert_allclose(state.step, np.full(5, 0.05))


def test_children_of_hard_tasks_find_harder_ones():
    """By replay and edits, the mean of what is replayed goes to the corner where returns are lowest."""
    sampler = samplers.get("accel")(FAMILIES["box"], 0.2, OPTIONS)
    kinds, draw, _ = batches("box", iterations=150)
    total = draw.u.sum(axis=-1).mean(axis=1)
    replays = total[kinds == REPLAYED]
    assert total[kinds == NEW].mean() == pytest.approx(2.5, abs=0.15)
    assert replays[-10:].mean() > 4.0
    assert replays[-10:].mean() > replays[:5].mean() + 0.2
    phi = np.asarray(jax.jit(lambda key: sampler.phi(sampler.init(key)))(jax.random.key(0)))
    assert phi.shape == (5,)
    assert bool(np.isfinite(phi).all())
