"""Run by test_sharding with eight forced host devices: the same run on several meshes, into one file."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import config, experiment
from roml_jax.run import checkpoint, sharding

SMALL = {
    "num_tasks": 8, "seeds": list(range(8)), "sampler.batch_size": 16, "ppo.layers": [16],
    "eval.test_tasks": 24, "eval.tasks": 8,
}  # fmt: skip
VARIBAD = {"learning_starts": 0, "vae.buffer_trajectories": 37, "vae.batch_trajectories": 4}
MULTITASK = {"agent": "multitask", "env": "probe_memory", "frames": 10 * 128}  # a program that compiles soon
PROBE = VARIBAD | {"env": "probe_memory", "frames": 10 * 128}
CHEETAH = VARIBAD | {
    "env": "cheetah_mass", "physics": "mjx", "protocol.horizon": 4, "frames": 64, "chunk": 1,
    "ppo.minibatches": 2, "sampler.batch_size": 8,
}  # fmt: skip


def make(mesh, **options):
    made = config.make(mesh=mesh, **(SMALL | options))
    return experiment.make(made, placement=sharding.placement(made))


def plain(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.plain(tree))]


def train(mesh, iterations, **options):
    """State, metrics and held-out returns after so many iterations, and the compiled program."""
    parts = make(mesh, **options)
    keys = jnp.stack([jax.random.key(seed) for seed in SMALL["seeds"]])
    state = jax.jit(parts.train.init)(keys)
    wanted = sharding.placed_shapes(parts.placement.mesh, jax.eval_shape(parts.train.init, keys), len(keys))
    chunk = jax.jit(parts.train.chunk, donate_argnums=0).lower(state, jnp.int32(0)).compile()
    for n in (1, iterations - 1) if iterations > 1 else (1,):
        state, metrics = chunk(state, jnp.int32(n))
    if parts.placement.mesh is not None:
        for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim), (leaf.sharding, like.sharding)
    returns = jax.jit(parts.test)(state.learner).returns
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    names += sorted(metrics)
    values = plain(state) + [np.asarray(metrics[name][0]) for name in sorted(metrics)]
    return dict(zip(names, values, strict=True)) | {"test": np.asarray(returns)}, chunk


def bytes_per_device(mesh):
    """What a device holds of the rollouts of 512 tasks, while and after they are collected."""
    parts = make(mesh, **MULTITASK, seeds=[0])
    shapes = jax.eval_shape(parts.learner.init, jax.random.key(0))
    tasks = jax.ShapeDtypeStruct((512, 1), jnp.zeros(()).dtype)
    collect = jax.jit(lambda *args: parts.learner.collect(*args)[1])
    memory = collect.lower(shapes, tasks, jax.random.key(0)).compile().memory_analysis()
    return np.array([memory.temp_size_in_bytes, memory.output_size_in_bytes])


def motion_on_c(mesh):
    """Observations of half-cheetahs on MuJoCo's C engine under fixed actions, (seeds, tasks, steps, size)."""
    made = config.make("cheetah_mass", mesh=mesh, seeds=SMALL["seeds"])
    env, placement = experiment.make_env(made), sharding.placement(made)

    def one_task(task, key):
        def step(state, t):
            state = env.step(state, jnp.sin(t * jnp.arange(1.0, 7.0)))
            return state, state.obs

        return jax.lax.scan(step, env.reset(key, task), 0.1 * jnp.arange(30.0))[1]

    def one_seed(key):
        tasks, keys = env.family.sample_prior(key, 3), jax.random.split(key, 3)
        return jax.vmap(one_task)(tasks, keys)

    seeds = jnp.stack([jax.random.key(seed) for seed in SMALL["seeds"]])
    move = placement.output(lambda n: jax.vmap(one_seed) if n > 1 else one_seed, len(seeds))
    return np.asarray(jax.jit(move)(seeds))


def main(out, env, iterations, *meshes):
    options = {"multitask": MULTITASK, "probe": PROBE, "cheetah": CHEETAH}[env]
    saved = {}
    for mesh in meshes:
        values, chunk = train(mesh, int(iterations), **options)
        saved |= {f"{mesh}:{name}": value for name, value in values.items()}
        saved[f"{mesh}:program"] = np.array(chunk.as_text())
        del chunk
        jax.clear_caches()  # not all programs are to be held at once
    if env == "multitask":
        saved |= {f"c:{mesh}": motion_on_c(mesh) for mesh in ("none", "seed=8")}
        saved |= {"bytes:none": bytes_per_device("none"), "bytes:task=8": bytes_per_device("task=8")}
    np.savez(out, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
