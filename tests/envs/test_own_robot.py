"""The worked example: what it says of its robot is so, and it trains."""

import example_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import risk
from roml_jax.envs import base

OPTIMISED = True


@pytest.fixture(scope="module")
def example():
    yield example_files.load("own_robot")
    base._registry._constructors.pop("own_robot")


def test_haste_pays_on_average_and_ruins_the_worst(example):
    """Constant forces on the same 500 tasks: the best on average is not the best for the worst 5 %."""
    env = example.own_robot()
    tasks = env.family.sample_prior(jax.random.key(1), 500)

    @jax.jit
    def returns(force):
        def step(state, _):
            state = jax.vmap(env.step)(state, jnp.full((500, 1), force))
            return state, jnp.where(state.valid, state.reward, 0.0)

        start = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 500), tasks)
        end, rewards = jax.lax.scan(step, start, None, length=env.spec.horizon)
        return rewards.sum(axis=0), end.done, end.diverged

    gentle, hasty = returns(0.3), returns(1.0)
    assert not (gentle[2] | hasty[2]).any()
    assert float(gentle[1].mean()) == 0  # nobody loses the crate
    assert 0.3 < float(hasty[1].mean()) < 0.6
    assert float(hasty[0].mean()) > 1.5 * float(gentle[0].mean())
    assert float(risk.cvar(hasty[0], 0.05)) < 0 < 1 < float(risk.cvar(gentle[0], 0.05))
    # haste loses every loose crate and no rough one; between them the payload decides
    friction, lost = np.asarray(tasks[:, 1]), np.asarray(hasty[1])
    assert lost[friction < 0.45].all()
    assert not lost[friction > 0.95].any()


@pytest.mark.slow
def test_it_trains(example):
    returns = example.train("cem", frames=2 * 64 * 40).returns()[0]
    assert returns.shape == (1000, 2)
    assert np.isfinite(returns).all()
