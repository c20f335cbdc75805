"""A new run's state, which is compiled quickly, is the one of the training's own function."""

import concurrent.futures

import jax
import numpy as np

from roml_jax import config, experiment
from roml_jax.config import seed_plan
from roml_jax.run import checkpoint, start


def test_a_state_that_was_compiled_quickly_has_the_same_bits():
    chosen = config.make("probe_memory", "plr", "varibad", seeds=(3, 4))
    parts = experiment.make(chosen)
    seeds = seed_plan.leaves(chosen.plan)
    plan = start.Plan(chosen, {}, validates=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        quick = start.started(parts, plan, start.shapes_of(parts, plan), pool)()
    usual = jax.jit(parts.train.init)(*seeds)
    for one, other in zip(
        jax.tree.leaves(checkpoint.plain(quick.meta)), jax.tree.leaves(checkpoint.plain(usual)), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    acting = parts.learner.acting(usual.learner)
    for kept in (quick.best.mean.acting, quick.best.cvar.acting):
        for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(acting), strict=True):
            np.testing.assert_array_equal(one, other)
