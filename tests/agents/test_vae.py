"""The ELBO and its gradients, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax.agents import elbo, vae
from roml_jax.agents.history import Trajectory

RNG = np.random.default_rng(0)


def _vae(config, obs_size=3, action_size=2):
    return vae.Encoder(config, obs_size, action_size), vae.StepDecoder(config, obs_size, action_size)


def _trajectories(batch, k, h, obs_size=3, action_size=2):
    return Trajectory(
        jnp.asarray(RNG.normal(size=(batch, k, h + 1, obs_size))),
        jnp.asarray(RNG.normal(size=(batch, k * h, action_size))),
        jnp.asarray(RNG.normal(size=(batch, k * h))),
        jnp.ones((batch, k * h), bool),
    )


CONFIG = vae.VaeConfig(latent=2, hidden=6, obs_embedding=4, action_embedding=3, reward_embedding=3,
                       decoder_layers=(7, 5), latents=4, decodes=3, tbptt=3, kl_weight=0.7)  # fmt: skip


def _init_vae(config, trajectory):
    encoder, decoder = _vae(config)
    z = jnp.zeros((trajectory.reward.shape[0], config.latent))
    params = {
        "encoder": jax.jit(encoder.init)(jax.random.key(0), trajectory),
        "decoder": jax.jit(decoder.init)(jax.random.key(1), z, trajectory),
    }
    return encoder, decoder, params


def test_elbo_against_loops(x64):
    """One decode at a time, with the whole concatenated input, for beliefs 0 (the prior) to T."""
    trajectory = _trajectories(3, 2, 4)
    encoder, decoder, params = _init_vae(CONFIG, trajectory)
    draws = elbo.draw(CONFIG, jax.random.key(2), 3, 8, jnp.float64)
    latents = [[0, 8, 3, 3], [7, 0, 1, 0], [8, 5, 2, 8]]  # the prior and the last, some twice
    draws = draws._replace(latents=jnp.asarray(latents))
    nested = {"encoder": params["encoder"], "decoder": {"reward": params["decoder"]}}
    loss = jax.jit(lambda params: elbo.negative_elbo(params, encoder, {"reward": decoder}, trajectory, draws))
    got, metrics = loss(nested)

    dec = {k: np.asarray(v) for k, v in params["decoder"]["params"].items() if not isinstance(v, dict)}
    sub = {
        k: {a: np.asarray(b) for a, b in v.items()}
        for k, v in params["decoder"]["params"].items()
        if isinstance(v, dict)
    }
    layer = lambda name, x: x @ sub[name]["kernel"] + sub[name]["bias"]  # noqa: E731
    relu = lambda x: np.maximum(x, 0)  # noqa: E731

    posterior = jax.jit(lambda hidden: encoder.apply(params["encoder"], hidden, method="posterior"))
    observe = jax.jit(lambda *step: encoder.apply(params["encoder"], *step, method="observe"))
    reconstruction = kl_total = 0.0
    for b in range(3):
        hidden, beliefs = jnp.zeros((1, 6)), []
        beliefs.append(posterior(hidden))
        action, obs, reward = (
            np.asarray(x[b]) for x in (trajectory.action, trajectory.obs, trajectory.reward)
        )
        for t in range(8):
            k, i = divmod(t, 4)
            hidden = observe(hidden, action[t][None], obs[k, i + 1][None], reward[t][None])
            beliefs.append(posterior(hidden))
        mean = np.concatenate([np.asarray(q.mean) for q in beliefs])
        logvar = np.concatenate([np.asarray(q.logvar) for q in beliefs])
        for e in range(CONFIG.latents):
            index = int(draws.latents[b, e])
            z = mean[index] + np.exp(0.5 * logvar[index]) * np.asarray(draws.noise[b, index])
            for d in range(CONFIG.decodes):
                t = int(draws.steps[b, e, d])
                k, i = divmod(t, 4)
                x = np.concatenate([
                    z,
                    relu(layer("embed_obs", np.asarray(trajectory.obs[b, k, i + 1]))),
                    relu(layer("embed_action", np.asarray(trajectory.action[b, t]))),
                    relu(layer("embed_obs", np.asarray(trajectory.obs[b, k, i]))),
                ])  # fmt: skip
                predicted = layer("out", relu(layer("second", relu(x @ dec["kernel"] + dec["bias"]))))[0]
                reconstruction += (predicted - float(trajectory.reward[b, t])) ** 2
            m0, v0 = (mean[index - 1], logvar[index - 1]) if index else (np.zeros(2), np.zeros(2))
            m1, v1 = mean[index], logvar[index]
            kl_total += 0.5 * np.sum(v0 - v1 + np.exp(v1 - v0) + (m1 - m0) ** 2 / np.exp(v0) - 1)
    assert float(got) == pytest.approx((reconstruction + 0.7 * kl_total) / 3, rel=1e-9)
    assert float(metrics["kl"]) == pytest.approx(kl_total / 3 / CONFIG.latents, rel=1e-9)
    # what a seed is stopped by: per value, so that its limit does not depend on how many are decoded
    assert float(metrics["loss"]) == pytest.approx(float(got) / CONFIG.latents / CONFIG.decodes, rel=1e-9)


def test_gathering_steps_has_the_scatters_gradient(x64):
    x, index = jnp.asarray(RNG.normal(size=(2, 5, 3))), jnp.asarray(RNG.integers(0, 5, size=(2, 9)))
    weight = jnp.asarray(RNG.normal(size=(2, 9, 3)))
    mine = jax.grad(lambda x: (elbo.take_steps(x, index) * weight).sum())(x)
    plain = jax.grad(lambda x: (jnp.take_along_axis(x, index[..., None], axis=1) * weight).sum())(x)
    np.testing.assert_allclose(mine, plain, rtol=1e-12)


def test_gradient_through_time_is_cut_every_tbptt_steps(x64):
    """With a cut at step 3, the belief after step 5 does not depend on step 1's reward by gradient."""
    trajectory = _trajectories(1, 1, 6)
    for tbptt, reaches in ((3, False), (None, True)):
        config = vae.VaeConfig(latent=2, hidden=6, obs_embedding=4, action_embedding=3, reward_embedding=3,
                               decoder_layers=(7, 5), tbptt=tbptt)  # fmt: skip
        encoder, _, params = _init_vae(config, trajectory)

        def last_mean(reward, encoder=encoder, params=params):
            return encoder.apply(params["encoder"], trajectory._replace(reward=reward)).mean[0, 5].sum()

        gradient = np.asarray(jax.jit(jax.grad(last_mean))(trajectory.reward))[0]
        assert (abs(gradient[1]) > 0) == reaches
        assert abs(gradient[3]) > 0
        assert gradient[5] == 0
