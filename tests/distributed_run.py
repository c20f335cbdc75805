"""Run by test_distributed in each process: a run of the command line, then more of it from its checkpoint."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import checkpoint, config, experiment, sharding, train

OPTIONS = """
    --env probe_memory --num-tasks 8 --frames 640 --chunk 3 --learning-starts 0 --sampler.batch-size 16
    --eval.interval 3 --eval.tasks 8 --eval.test-tasks 24 --seeds 3 4 --ppo.layers 16
    --vae.buffer-trajectories 32 --vae.batch-trajectories 4
""".split()  # noqa: SIM905


def main(folder, *more):
    assert train.main([*OPTIONS, "--out", folder, *more]) == 0
    made = config.parse([*OPTIONS, *more])
    parts = experiment.make(made)
    keys = jnp.stack([jax.random.key(seed) for seed in made.seeds])
    shapes = sharding.placed_shapes(parts.mesh, jax.eval_shape(parts.train.init, keys), len(keys))
    state = checkpoint.restore(Path(folder) / "checkpoint", shapes)
    assert int(state.iteration) == 5
    if parts.mesh is not None:
        assert not state.key.is_fully_addressable  # half of the seeds are the other process's
    state, metrics = jax.jit(parts.train.chunk, donate_argnums=0)(state, jnp.int32(2))
    assert int(state.iteration) == 7
    if jax.process_index() == 0:
        np.savez(f"{folder}-continued.npz", **jax.tree.map(lambda m: np.asarray(m[:2]), metrics))


if __name__ == "__main__":
    main(*sys.argv[1:])
