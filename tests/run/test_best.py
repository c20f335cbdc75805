"""The best learners so far are the ones that scored best."""

import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config
from roml_jax.run import best


def acting(*values):
    return {"weights": jnp.array([[value, value] for value in values])}


def test_each_run_keeps_its_own_best_by_each_measure():
    kept = best.start(acting(0.0, 0.0, 0.0), 3)
    nan = np.nan
    scores = [
        # iteration, means, CVaRs
        (5, [1.0, 3.0, nan], [-1.0, -2.0, -5.0]),
        (10, [2.0, 2.0, 1.0], [-2.0, -1.0, nan]),
        (15, [2.0, 1.0, 0.0], [-3.0, -1.5, -4.0]),
    ]
    for iteration, mean, cvar in scores:
        kept = best.update(
            kept, np.int32(iteration), np.array(mean, np.float32), np.array(cvar, np.float32),
            acting(*(iteration + i / 10 for i in range(3))),
        )  # fmt: skip
    np.testing.assert_array_equal(kept.mean.iteration, [10, 5, 10])  # the earlier of equals
    np.testing.assert_array_equal(kept.cvar.iteration, [5, 10, 15])
    np.testing.assert_array_equal(kept.mean.score, [2, 3, 1])
    np.testing.assert_allclose(kept.mean.acting["weights"][:, 0], [10.0, 5.1, 10.2])
    np.testing.assert_allclose(kept.cvar.acting["weights"][:, 1], [5.0, 10.1, 15.2])


def test_a_single_runs_leaves_have_no_axis_of_runs():
    kept = best.start({"weights": jnp.zeros((3, 2))}, 1)
    for iteration, score in ((1, 1.0), (2, 0.5)):
        score = np.array([score], np.float32)
        kept = best.update(kept, np.int32(iteration), score, -score, {"weights": jnp.full((3, 2), iteration)})
    assert (kept.mean.iteration[0], kept.cvar.iteration[0]) == (1, 2)
    np.testing.assert_array_equal(kept.mean.acting["weights"], np.full((3, 2), 1))
    np.testing.assert_array_equal(kept.cvar.acting["weights"], np.full((3, 2), 2))


@pytest.mark.parametrize(
    ("options", "iterations"), [({}, 160), ({"tasks": 8}, 5), ({"interval": 7}, 7), ({"interval": 0}, 0)]
)
def test_validation_is_a_tenth_of_the_frames(options, iterations):
    assert config.EvalConfig(**options).every(16, 10_000) == iterations
