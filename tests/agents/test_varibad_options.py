"""VariBAD's further decoders against loops, and policy losses that reach the encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, experiment
from roml_jax.agents import elbo, vae
from roml_jax.agents.history import Trajectory

RNG = np.random.default_rng(0)
SIZES = {"latent": 2, "hidden": 6, "obs_embedding": 4, "action_embedding": 3, "reward_embedding": 3,
         "decoder_layers": (7, 5), "latents": 4, "decodes": 3, "tbptt": None}  # fmt: skip
WEIGHTS = {"reward_weight": 0.5, "state_weight": 2.0, "task_weight": 3.0}


def _trajectory(batch=2, k=2, h=3):
    valid = np.ones((batch, k * h), bool)
    valid[0, 2] = False
    return Trajectory(
        *map(jnp.asarray, (RNG.normal(size=(batch, k, h + 1, 3)), RNG.normal(size=(batch, k * h, 2)),
                           RNG.normal(size=(batch, k * h)), valid, RNG.normal(size=(batch, 4))))
    )  # fmt: skip


def _setup(trajectory, **weights):
    made = vae.VaeConfig(**SIZES, **weights)
    encoder, decoders = vae.Encoder(made, 3, 2), vae.make_decoders(made, 3, 2, 4)
    batch = trajectory.reward.shape[0]

    @jax.jit
    def init(trajectory):
        return {
            "encoder": encoder.init(jax.random.key(0), trajectory),
            "decoder": {
                name: module.init(jax.random.key(i), jnp.zeros((batch, made.latent)), trajectory)
                for i, (name, module) in enumerate(decoders.items(), 1)
            },
        }

    return made, encoder, decoders, init(trajectory)


def _mlp(p, x, names):
    for name in names[:-1]:
        x = np.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0)
    return x @ p[names[-1]]["kernel"] + p[names[-1]]["bias"]


def test_every_decoder_against_loops(x64):
    """The next observation from (z, action, observation), the task from z, each with its weight."""
    trajectory = _trajectory()
    made, encoder, decoders, params = _setup(trajectory, **WEIGHTS)
    assert set(decoders) == {"reward", "state", "task"}
    draws = elbo.draw(made, jax.random.key(2), 2, 6, jnp.float64)
    loss = jax.jit(lambda params: elbo.negative_elbo(params, encoder, decoders, trajectory, draws))
    got, metrics = loss(params)
    posterior = jax.jit(encoder.apply)(params["encoder"], trajectory)
    z_all = np.asarray(posterior.mean + jnp.exp(0.5 * posterior.logvar) * draws.noise)
    own = jax.tree.map(np.asarray, {name: p["params"] for name, p in params["decoder"].items()})
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    state = task = 0.0
    for b in range(2):
        for e in range(made.latents):
            z = z_all[b, draws.latents[b, e]]
            predicted = _mlp(own["task"], z, ["Dense_0", "Dense_1", "Dense_2"])
            task += np.square(predicted - trajectory.task[b]).mean()
            for d in range(made.decodes):
                t = int(draws.steps[b, e, d])
                k, i = divmod(t, 3)
                p = own["state"]
                embed = lambda name, x, p=p: relu(x @ p[name]["kernel"] + p[name]["bias"])  # noqa: E731
                x = np.concatenate([
                    z, embed("embed_action", np.asarray(trajectory.action[b, t])),
                    embed("embed_obs", np.asarray(trajectory.obs[b, k, i])),
                ])  # fmt: skip
                first = relu(x @ p["kernel"] + p["bias"])
                predicted = _mlp(p, first, ["second", "out"])
                error = np.square(predicted - trajectory.obs[b, k, i + 1]).mean()
                state += error * bool(trajectory.valid[b, t])
    count = 2 * made.latents
    assert float(metrics["task_reconstruction"]) == pytest.approx(task / count, rel=1e-9)
    assert float(metrics["state_reconstruction"]) == pytest.approx(state / count / made.decodes, rel=1e-9)
    reward = float(metrics["reconstruction"]) * made.decodes * made.latents
    kl = float(metrics["kl"]) * made.latents
    assert float(got) == pytest.approx(0.5 * reward + 2 * state / 2 + 3 * task / 2 + kl, rel=1e-9)


def test_only_decoders_with_a_weight_exist_and_one_must():
    trajectory = _trajectory()
    _, _, decoders, params = _setup(trajectory, reward_weight=0.0, task_weight=1.0)
    assert set(decoders) == set(params["decoder"]) == {"task"}
    with pytest.raises(ValueError, match="vae needs a decoder"):
        vae.VaeConfig(reward_weight=0.0)
    with pytest.raises(ValueError, match=r"EnvSpec\.task_size must be set"):
        vae.make_decoders(vae.VaeConfig(task_weight=1.0), 3, 2, 0)


def test_decoders_begin_with_weights_of_their_own():
    parts = experiment.make(
        config.make("probe_memory", "uniform", **{"num_tasks": 8, "vae.state_weight": 1.0})
    )
    decoders = jax.jit(parts.learner.init)(jax.random.key(0)).belief["decoder"]
    kernels = [
        {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(decoders[name])
        }
        for name in ("reward", "state")
    ]
    alike = [
        np.array_equal(leaf, kernels[1][path])
        for path, leaf in kernels[0].items()
        if "kernel" in path and leaf.shape == kernels[1][path].shape
    ]
    assert alike
    assert not any(alike)


def _trained(iterations=3, **options):
    options = {"num_tasks": 8, "frames": 1e4, "chunk": 3, "learning_starts": 0, "eval.tasks": 4} | options
    parts = experiment.make(config.make("probe_memory", "uniform", **options))
    start = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    state, metrics = jax.jit(parts.train.chunk)(start, jnp.int32(iterations))
    return start.learner, state.learner, metrics


def _moved(before, after):
    return max(
        float(abs(a - b).max()) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


@pytest.mark.slow
def test_policy_losses_reach_the_encoder_where_so_wished():
    """With a VAE that does not learn, only they can move it; what is recomputed is what acted."""
    still = {"vae.lr": 1e-30, "ppo.epochs": 1, "ppo.minibatches": 1}
    before, after, metrics = _trained(**still, ppo_reaches_belief=True)
    assert _moved(before.belief["encoder"], after.belief["encoder"]) > 1e-4
    assert _moved(before.belief["decoder"], after.belief["decoder"]) < 1e-20
    assert np.nanmax(abs(np.asarray(metrics["ppo/approx_kl"]))) < 1e-5
    before, after, _ = _trained(**still)
    assert _moved(before.belief["encoder"], after.belief["encoder"]) < 1e-20
    assert _moved(before.policy, after.policy) > 1e-4


def test_the_task_decoder_learns_from_tasks_that_are_kept_with_their_trajectories():
    _, after, metrics = _trained(
        **{"vae.task_weight": 1.0, "vae.reward_weight": 0.0, "vae.state_weight": 1.0}
    )
    kept = np.asarray(after.replay.rows.task)[: int(after.replay.size)]
    assert kept.shape[1:] == (1,)
    assert ((kept > 0) & (kept < 1)).all()
    assert np.isfinite(metrics["vae/task_reconstruction"][1:3]).all()
    assert np.isfinite(metrics["vae/state_reconstruction"][1:3]).all()
