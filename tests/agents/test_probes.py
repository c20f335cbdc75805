"""The whole loop on environments whose optimal values are known, each isolating one part."""

import jax.numpy as jnp
import numpy as np
import pytest
from probes import train

from roml_jax import evaluate

OPTIMISED = True


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("agent", "frames"), [("multitask", 20e3), pytest.param("varibad", 60e3, marks=pytest.mark.slow)]
)
def test_cem_avoids_the_gamble_that_uniform_takes(agent, frames):
    """Gambling is best on average (0.6) and ruinous on the worst tenth (-3); not gambling pays 0.

    The median of five seeds: before the sampler has moved, a run may settle on the other answer.
    """
    for sampler, gambles in (("uniform", True), ("cem", False)):
        returns = jnp.asarray(train("probe_risk", sampler, agent=agent, frames=frames, seeds=[0, 1, 2, 3, 4]))
        runs = [evaluate.summarise(one, 0.1) for one in returns]
        mean = np.median([float(run["return_mean"]) for run in runs])
        cvar = np.median([float(run["cvar"]) for run in runs])
        assert mean == pytest.approx(0.6 if gambles else 0.0, abs=0.15)
        # of 1,000 held-out tasks about a tenth are bad: the worst tenth may hold some good ones
        assert cvar < -1.5 if gambles else cvar > -0.1


@pytest.mark.slow
def test_a_recurrent_policy_remembers_across_steps_and_episodes():
    """RL2 has no belief but its GRU's hidden state, trained through time."""
    first, second = train("probe_memory", agent="rl2", frames=40e3).mean(axis=0)
    assert 7.0 < first <= 7.75
    assert second > 7.8


@pytest.mark.slow
def test_the_ladders_ends():
    """Without adaptation one action for all tasks: 4 of 8; told the task: all 8, from the first step."""
    both = {
        agent: train("probe_memory", "uniform", agent=agent, frames=40e3) for agent in ("multitask", "oracle")
    }
    np.testing.assert_allclose(both["multitask"].mean(axis=0), 4.0, atol=0.5)
    assert both["oracle"].mean(axis=0).min() > 7.8
