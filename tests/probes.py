"""Training on a probe with its preset, for the tests of several agents."""

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import config, experiment


def train(env, sampler="cem", **options):
    """Trains with the preset; returns held-out returns (M, K), or (S, M, K) of several seeds."""
    made = config.make(env, sampler, **options)
    parts = experiment.make(made)
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(seed) for seed in made.seeds]))
    chunk = jax.jit(parts.train.chunk, donate_argnums=0)
    done = 0
    while done < parts.num_iterations:
        state, _ = chunk(state, jnp.int32(parts.num_iterations - done))
        done += parts.train.chunk_length
    return np.asarray(jax.jit(parts.test)(state.learner).returns)
