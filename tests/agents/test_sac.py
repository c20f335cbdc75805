"""The actor of SAC and PEARL in the range of each actuator."""

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
