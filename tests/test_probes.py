"""The whole loop on environments whose optimal values are known, each isolating one part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, evaluate, experiment


def train(env, sampler="cem", **options):
    """Trains with the preset; returns held-out returns (M, K)."""
    parts = experiment.make(config.make(env, sampler, **options))
    state = jax.jit(parts.train.init)(jax.random.split(jax.random.key(0), 1))
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    done = 0
    while done < parts.num_iterations:
        state, _ = chunk(state, jnp.int32(parts.num_iterations - done))
        done += parts.train.chunk_length
    return np.asarray(jax.jit(parts.test)(state.learner))


@pytest.mark.parametrize("boundary", ["terminal", "reset"])
def test_observation_is_repeated(boundary):
    """Optimal 0; the best constant action earns -8/3 per episode.

    With boundary="terminal" the second episode's first action does not see its own observation: the
    best it can do is 0, which costs 1/3, and answering the stale observation costs 2/3.
    """
    first, second = train("probe_observation", **{"protocol.boundary": boundary}).mean(axis=0)
    assert first > -0.03
    if boundary == "reset":
        assert second > -0.03
    else:
        assert -0.8 < second < -0.25


def test_memory_tells_which_action_pays():
    """Optimal 7.5 in the first episode and 8 in the second; without memory 4."""
    first, second = train("probe_memory").mean(axis=0)
    assert 7.0 < first <= 7.75
    assert second > 7.8


def test_cem_avoids_the_gamble_that_uniform_takes():
    """Gambling is best on average (0.4) and ruinous on the worst tenth (-5); not gambling pays 0."""
    for sampler, gambles in (("uniform", True), ("cem", False)):
        returns = jnp.asarray(train("probe_risk", sampler))
        summary = evaluate.summarise(returns, 0.1)
        assert float(summary["return_mean"]) == pytest.approx(0.4 if gambles else 0.0, abs=0.15)
        # of 1,000 held-out tasks about a tenth are bad: the worst tenth may hold a few good ones
        assert float(summary["cvar"]) == pytest.approx(-5.0 if gambles else 0.0, abs=0.8)
