"""A seed that diverges is frozen at its last good state."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import guard, meta
from roml_jax.agents.base import replay_field


class Learner(NamedTuple):
    weight: Any
    replay: Any


def start():
    learner = Learner(jnp.zeros(3), jnp.zeros(4))
    return meta.MetaState(learner, jnp.zeros(2), jnp.zeros(()), jnp.full((), -1), jnp.zeros((), int))


def iteration_that(weight, loss):
    """Adds 1 everywhere, then sets the learner's first weight and the loss."""

    def iteration(state):
        learner = Learner((state.learner.weight + 1).at[0].set(weight), state.learner.replay + 1)
        after = state._replace(learner=learner, sampler=state.sampler + 1, iteration=state.iteration + 1)
        return after, {"a/loss": jnp.asarray(loss), "train/return": jnp.ones(())}

    return guard.guarded(iteration, replay_field("rows"))


@pytest.mark.parametrize(
    ("weight", "loss"), [(np.nan, 0.0), (np.inf, 0.0), (1e31, 0.0), (1.0, 2e8), (1.0, -np.inf)]
)
def test_a_seed_that_diverges_keeps_its_state_but_not_its_experience(weight, loss):
    state, metrics = iteration_that(weight, loss)(start())
    assert not state.learner.weight.any()
    assert not state.sampler.any()
    assert (state.learner.replay == 1).all()  # written in place: choosing between two would copy it
    assert int(state.stopped) == 0  # iterations made before it diverged
    assert int(state.iteration) == 1
    assert np.isnan(metrics["train/return"])
    assert metrics["train/stopped"] == 1
    again, metrics = iteration_that(1.0, 0.0)(state)  # a good iteration does not wake it
    assert not again.learner.weight.any()
    assert int(again.stopped) == 0
    assert metrics["train/stopped"] == 1


@pytest.mark.parametrize("loss", [0.0, np.nan])  # a loss that was not computed is NaN
def test_a_seed_that_is_well_goes_on(loss):
    state, metrics = iteration_that(2.0, loss)(start())
    np.testing.assert_array_equal(state.learner.weight, [2, 1, 1])
    assert (state.sampler == 1).all()
    assert int(state.stopped) == -1
    assert metrics["train/stopped"] == 0
    assert metrics["train/return"] == 1
