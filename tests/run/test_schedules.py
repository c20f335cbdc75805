"""What a run's new total re-bases is found in the run's own functions."""

import jax.numpy as jnp
import pytest

from roml_jax import samplers, tasks
from roml_jax.agents import MetaLearner, on_policy, ppo
from roml_jax.run import schedules

FAMILY = tasks.beta("load", 0.0, 7.0)


def learner(anneal_lr):
    """Learns nothing but a learning rate, as the agents have it."""
    config, rates = ppo.PpoConfig(anneal_lr=anneal_lr), {"ppo.lr": jnp.float32(1e-3)}

    def update(state, experience, weights, key, progress):
        return state + on_policy.learning_rate(config, rates, progress), {}

    return MetaLearner(
        lambda key: jnp.zeros(()), lambda state, drawn, key: (state, drawn, drawn.sum(axis=1)), update, None
    )


@pytest.mark.parametrize("anneal", [False, True])
def test_an_annealed_learning_rate_follows_the_run(anneal):
    assert schedules.followers(learner(anneal), samplers.make("uniform", FAMILY, 0.1), 4) == (anneal, False)


@pytest.mark.parametrize(
    ("sampler", "follows"),
    [
        ("cem", False),
        ("cem_soft", True),
        ("tail", False),
        ("tail_soft", True),
        ("mpts", True),
        ("naive", False),
    ],
)
def test_a_sampler_with_a_schedule_follows_the_run(sampler, follows):
    assert schedules.followers(learner(False), samplers.make(sampler, FAMILY, 0.1), 4) == (False, follows)
