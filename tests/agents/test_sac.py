"""The actor of SAC and PEARL in the range of each actuator."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax.agents import sac
from roml_jax.types import Continuous

OPTIONS = sac.SacConfig(layers=(4,))


def test_actions_are_in_each_actuators_range():
    """A network of zeros: normal before tanh, so draws reach both ends, and the mode is the middle."""
    networks = sac.make_networks(Continuous(2, (-1.0, 0.0), (1.0, 100.0)), OPTIONS)
    params = networks.init(jax.random.key(0), jnp.zeros(3), jnp.zeros(1))["policy"]
    zero = jax.tree.map(jnp.zeros_like, params)
    obs, z = jnp.zeros((4000, 3)), jnp.zeros((4000, 1))
    middle = networks.act(zero, obs, z, jax.random.key(1), jnp.asarray(True))
    np.testing.assert_allclose(middle, np.tile([0, 50], (4000, 1)))
    drawn = np.asarray(networks.act(zero, obs, z, jax.random.key(1), jnp.asarray(False)))
    assert (abs(drawn.min(0) - [-1, 0]) < [0.02, 1]).all()
    assert (abs(drawn.max(0) - [1, 100]) < [0.02, 1]).all()
    assert ((drawn >= [-1, 0]) & (drawn <= [1, 100])).all()


def test_a_range_without_limits_is_refused_in_one_line():
    with pytest.raises(ValueError, match="needs actions with limits, but the range is") as caught:
        sac.make_networks(Continuous(2, (-np.inf, 0.0), (np.inf, 1.0)), OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_batch_of_tasks_that_are_all_filtered_out_leaves_the_policy_and_moves_the_critics():
    networks = sac.make_networks(Continuous(1, (-1.0,), (1.0,)), OPTIONS)
    obs, z = jnp.ones((2, 3, 2)), jnp.ones((2, 3, 1))
    params = networks.init(jax.random.key(0), obs[0, 0], z[0, 0])
    opt_state = {name: sac.ADAM.init(params[name]) for name in ("policy", "value")}
    weight = jnp.ones((2, 3))

    @jax.jit
    def improved(params, opt_state, policy_weight):
        batch = sac.Batch(obs, obs[..., :1], weight, obs, weight, weight, policy_weight)
        return sac.improve(
            networks, OPTIONS, params, opt_state, batch, z, jax.random.key(1), jnp.asarray(0.1)
        )

    params, opt_state, _ = improved(params, opt_state, weight)
    after, opt_after, _ = improved(params, opt_state, 0 * weight)
    chex.assert_trees_all_equal(after["policy"], params["policy"])
    chex.assert_trees_all_equal(opt_after["policy"], opt_state["policy"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(after["value"], params["value"])
