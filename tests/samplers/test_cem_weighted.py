"""RoML with weights: the tasks are those of RoML, the weights those of GDRM."""

import jax
import numpy as np
import pytest

from roml_jax import samplers, tasks
from roml_jax.samplers.gdrm import GdrmConfig

FAMILY = tasks.beta("load", 0.0, 7.0)


def test_weighted_is_cem_with_the_weights_of_gdrm():
    weighted = samplers.get("cem_weighted")(FAMILY, 0.05)
    gdrm = samplers.get("gdrm")(FAMILY, 0.05, GdrmConfig(eta=1.0, standardise=True))

    @jax.jit
    def both(returns):
        state, draw = weighted.sample(weighted.init(jax.random.key(0)), jax.random.key(1), 4)
        return weighted.weights(state, draw, returns), gdrm.weights((), draw, returns)

    ours, expected = both(np.array([3.0, -1.0, np.nan, 0.5], np.float32))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.loss[1] > ours.loss[3] > ours.loss[0] > ours.loss[2] == 0


def test_its_tasks_and_updates_are_those_of_cem():
    kinds = [samplers.get(name)(FAMILY, 0.05) for name in ("cem", "cem_weighted")]

    @jax.jit
    def run(key):
        found = []
        for sampler in kinds:
            state = sampler.init(key)
            for _ in range(5):
                state, draw = sampler.sample(state, key, 64)
                state, _ = sampler.update(state, draw, -draw.task[:, 0], key, 0.5)
            found.append((draw.task, sampler.phi(state)))
        return found

    ours, theirs = run(jax.random.key(0))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(ours[1][0]) > 0.55  # it has moved


def test_its_options_are_those_of_cem_and_a_temperature():
    even = samplers.cem_weighted(FAMILY, 0.05, samplers.CemWeightedConfig(eta=0.0, batch_size=64))
    weights = even.weights((), None, np.array([3.0, -1.0], np.float32))
    np.testing.assert_allclose(weights.loss, 1.0)
    with pytest.raises(ValueError, match=r"sampler\.eta must be at least 0"):
        samplers.CemWeightedConfig(eta=-1.0)
    with pytest.raises(ValueError, match=r"sampler\.batch_size must be at least 2"):
        samplers.CemWeightedConfig(batch_size=1)
