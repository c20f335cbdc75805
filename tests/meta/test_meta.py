"""The compiled loop: the same key gives the same run, nothing recompiles, nothing calls the host."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from roml_jax import config, experiment, meta
from roml_jax.run import checkpoint

SMALL = {
    "num_tasks": 8, "frames": 5120, "chunk": 4, "vae.buffer_trajectories": 32, "vae.batch_trajectories": 4,
    "sampler.batch_size": 16, "learning_starts": 0,
}  # fmt: skip


def small(env="probe_memory", **options):
    return experiment.make(config.make(env, **(SMALL | options)))


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def plain(tree):
    return jax.tree.map(np.asarray, checkpoint.plain(tree))


def run(parts, state, iterations):
    chunk = jax.jit(parts.train.chunk)
    rows = []
    while iterations:
        n = min(iterations, parts.train.chunk_length)
        state, metrics = chunk(state, jnp.int32(n))
        rows.append(jax.tree.map(lambda m, n=n: np.asarray(m[:n]), metrics))
        iterations -= n
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


@pytest.fixture(scope="module")
def parts():
    return small()


def test_the_same_key_gives_the_same_run_bit_for_bit(parts):
    init = jax.jit(parts.train.init)
    first, metrics = run(parts, init(keys(0)), 8)
    again, metrics_again = run(parts, init(keys(0)), 8)
    other, _ = run(parts, init(keys(1)), 8)
    chex.assert_trees_all_equal(plain(first), plain(again))
    chex.assert_trees_all_equal(metrics, metrics_again)
    assert not np.array_equal(plain(first.sampler.state.phi), plain(other.sampler.state.phi))
    policy, other_policy = (
        jax.tree.leaves(plain(first.learner.policy)),
        jax.tree.leaves(plain(other.learner.policy)),
    )
    assert not all(np.array_equal(a, b) for a, b in zip(policy, other_policy, strict=True))


def test_how_iterations_are_cut_into_chunks_does_not_matter(parts):
    state = jax.jit(parts.train.init)(keys(0))
    chunk = jax.jit(parts.train.chunk)
    whole = chunk(chunk(state, jnp.int32(4))[0], jnp.int32(2))[0]
    pieces = state
    for n in (1, 3, 2):
        pieces, metrics = chunk(pieces, jnp.int32(n))
        assert np.isnan(metrics["train/return"][n:]).all()
        assert np.isfinite(metrics["train/return"][:n]).all()
    assert int(pieces.iteration) == 6
    chex.assert_trees_all_equal(plain(whole), plain(pieces))


def test_tasks_change_and_nothing_recompiles():
    options = {name: SMALL[name] for name in ("num_tasks", "frames", "sampler.batch_size")}
    parts = experiment.make(config.make("probe_memory", "cem", "multitask", **options))
    iteration = meta.make_iteration(parts.learner, parts.sampler, 8, 40)
    traced_once = jax.jit(chex.assert_max_traces(iteration, n=1))
    state = jax.jit(parts.train.init)(keys(0))
    phis = []
    for _ in range(6):
        state, metrics = traced_once(state)
        phis.append(float(metrics["sampler/phi_0"]))
    assert len(set(phis)) > 1  # the sampler moved, so the tasks did
    assert int(state.iteration) == 6


def test_a_second_chunk_has_the_program_of_the_first(parts):
    """Python's numbers in a component's initial state must not give it types that a chunk does not return."""

    def init(key):
        whole = parts.sampler.init(key)
        return whole._replace(state=whole.state._replace(outside=-1e9))

    train = meta.make_train(parts.learner, parts.sampler._replace(init=init), num_tasks=8, num_iterations=40)
    start = jax.eval_shape(train.init, keys(0))
    after, _ = jax.eval_shape(train.chunk, start, jnp.int32(1))
    for leaf in jax.tree.leaves((start, after)):
        assert not leaf.weak_type


@pytest.mark.slow
def test_seeds_in_one_program_are_the_single_runs():
    """A vmapped seed is its own run but for the order of float additions; four iterations in float64."""
    jax.config.update("jax_enable_x64", True)
    try:
        alone = [run(p := small(), jax.jit(p.train.init)(keys(seed)), 4) for seed in (3, 4)]
        both_parts = small(seeds=[3, 4])
        state, metrics = run(both_parts, jax.jit(both_parts.train.init)(keys(3, 4)), 4)
    finally:
        jax.config.update("jax_enable_x64", False)
    for i, (single, single_metrics) in enumerate(alone):
        together = jax.tree.map(lambda x, i=i: x[i], plain(state._replace(iteration=jnp.zeros(2))))
        chex.assert_trees_all_close(
            together._replace(iteration=0), plain(single)._replace(iteration=0), atol=1e-8, rtol=1e-6
        )
        np.testing.assert_allclose(
            metrics["train/return"][:, i], single_metrics["train/return"][:, 0], rtol=1e-9
        )


def test_learning_waits_for_enough_frames():
    parts = small(learning_starts=5 * 128)
    state = jax.jit(parts.train.init)(keys(0))
    after, metrics = run(parts, state, 5)
    assert np.isnan(metrics["ppo/policy_loss"][:4]).all()
    assert np.isfinite(metrics["ppo/policy_loss"][4]).all()
    assert int(after.learner.frames) == 5 * 128
    assert int(after.learner.replay.size) == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "option"), [("tail", {"sampler.level": "loss"}), ("naive", {"sampler.pool": 20})]
)
def test_other_samplers_train_too(sampler, option):
    options = {name: value for name, value in SMALL.items() if not name.startswith("sampler.")}
    parts = experiment.make(config.make("probe_memory", sampler, **(options | option)))
    _, metrics = run(parts, jax.jit(parts.train.init)(keys(0)), 3)
    for name in ("train/return", "ppo/policy_loss", "ppo/value_loss", "vae/loss"):
        assert np.isfinite(metrics[name][1:]).all(), name


def with_slot_key(sampler, key):
    return sampler._replace(state=sampler.state._replace(slot_key=key))


def _exported(env, platform, **options):
    parts = small(env, **options)
    iteration = meta.make_iteration(parts.learner, parts.sampler, 8, 40)
    state = jax.eval_shape(parts.train.init, keys(0))

    def on_raw_keys(state, key_data, slot_data):
        state = state._replace(
            key=jax.random.wrap_key_data(key_data),
            sampler=with_slot_key(state.sampler, jax.random.wrap_key_data(slot_data)),
        )
        return iteration(state)[1]

    raw = jax.eval_shape(jax.random.key_data, jax.random.key(0))
    stripped = state._replace(key=(), sampler=with_slot_key(state.sampler, ()))
    return export.export(jax.jit(on_raw_keys), platforms=[platform])(stripped, raw, raw)


@pytest.mark.parametrize(
    ("env", "platform"),
    [
        ("khazad_dum", "tpu"),
        ("cheetah_mass", "cuda"),
        pytest.param("khazad_dum", "cuda", marks=pytest.mark.slow),
        pytest.param("cheetah_mass", "tpu", marks=pytest.mark.slow),
    ],
)
def test_the_iteration_compiles_for_accelerators_without_the_host(env, platform):
    frames = {"khazad_dum": 8 * 128, "cheetah_mass": 8 * 400}[env]
    engine = {"env.physics": "mjx"} if env == "cheetah_mass" else {}
    module = _exported(env, platform, frames=frames * 40, **engine).mlir_module()
    assert len(module) > 100_000
    for callback in ("callback", "io_callback", "xla_ffi_python", "infeed", "outfeed", "host_compute"):
        assert callback not in module, callback
