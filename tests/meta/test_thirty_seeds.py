"""Thirty seeds in one program are thirty runs, with the same keys, but for the order of float additions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, experiment
from roml_jax.config import seed_plan
from roml_jax.run import checkpoint

OPTIMISED = True

pytestmark = pytest.mark.slow

SEEDS = 30
SMALL = {
    "num_tasks": 4, "frames": 1e6, "chunk": 20, "learning_starts": 0, "vae.buffer_trajectories": 64,
    "vae.batch_trajectories": 4, "sampler.batch_size": 8, "ppo.minibatches": 2,
}  # fmt: skip


def plain(state):
    """Leaves as NumPy arrays, but for the iteration, which all seeds share."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.plain(state._replace(iteration=())))]


def compare(env, iterations, rtol, atol, **options):
    def make(seeds):
        made = config.make(env, "cem", **SMALL, **options, seeds=seeds)
        parts = experiment.make(made)
        return jax.jit(parts.train.init), jax.jit(parts.train.chunk), seed_plan.leaves(made.plan)

    seeds = list(range(SEEDS))
    init, chunk, leaves = make(seeds)
    together, metrics = chunk(init(*leaves), jnp.int32(iterations))
    together = plain(together)
    init, chunk, _ = make([0])
    for seed in seeds:
        alone, own = chunk(init(jnp.stack([jax.random.key(seed)]), {}), jnp.int32(iterations))
        for mine, all_of_them in zip(plain(alone), together, strict=True):
            np.testing.assert_allclose(all_of_them[seed], mine, rtol=rtol, atol=atol)
        returns = np.asarray(own["train/return"])[:iterations, 0]
        np.testing.assert_allclose(
            np.asarray(metrics["train/return"])[:iterations, seed], returns, rtol=rtol, atol=atol
        )
    first, second = (np.asarray(metrics["train/return"])[:iterations, seed] for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("env", ["khazad_dum", "probe_memory"])
def test_over_twenty_iterations(env, x64):
    compare(env, 20, rtol=1e-5, atol=1e-7)


def test_a_cheetah_over_one():
    """Contacts amplify the last bit, so one iteration in which the learner learns."""
    compare("cheetah_mass", 1, rtol=2e-2, atol=2e-3)
