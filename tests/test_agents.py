"""The learner's pieces against straightforward loop versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from roml_jax import networks
from roml_jax.agents import on_policy, ppo, replay, vae
from roml_jax.agents.history import Trajectory
from roml_jax.quiet import running_statistics
from roml_jax.types import Continuous, Discrete

RNG = np.random.default_rng(0)


def test_gae_against_loops(x64):
    n, k, h, gamma, lam = 3, 2, 6, 0.9, 0.8
    reward, value = RNG.normal(size=(n, k, h)), RNG.normal(size=(n, k, h))
    keep = np.ones((n, k, h))
    keep[..., -1] = 0
    keep[1] = 0  # a task that a tail sampler filtered out
    expected = np.zeros((n, k, h))
    for i in range(n):
        for e in range(k):
            advantage = 0.0
            for t in reversed(range(h - 1)):
                delta = reward[i, e, t] + gamma * value[i, e, t + 1] - value[i, e, t]
                advantage = (delta + gamma * lam * advantage) * keep[i, e, t]
                expected[i, e, t] = advantage
    got = ppo.gae(*map(jnp.asarray, (reward, value, keep)), gamma, lam)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert (np.asarray(got)[:, :, -1] == 0).all()
    assert (np.asarray(got)[1] == 0).all()


def test_gae_does_not_see_an_episodes_last_reward_or_the_next_episode(x64):
    reward, value = RNG.normal(size=(1, 2, 5)), RNG.normal(size=(1, 2, 5))
    keep = np.ones((1, 2, 5))
    keep[..., -1] = 0
    changed = reward.copy()
    changed[0, 0, -1] += 100
    changed[0, 1] += 100
    before, after = (
        np.asarray(ppo.gae(jnp.asarray(r), jnp.asarray(value), jnp.asarray(keep), 0.9, 0.9))
        for r in (reward, changed)
    )
    np.testing.assert_array_equal(before[0, 0], after[0, 0])


def test_value_loss_against_loops(x64):
    value, old, target, clip = *(2 * RNG.normal(size=(3, 50))), 0.1

    def huber(x):
        return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5

    terms = [
        max(huber(v - r), huber(o + np.clip(v - o, -clip, clip) - r))
        for v, o, r in zip(value, old, target, strict=True)
    ]
    got = ppo.value_losses(*map(jnp.asarray, (value, old, target)), clip)
    np.testing.assert_allclose(got, 0.5 * np.array(terms), rtol=1e-12)


def test_advantages_are_normalised_over_what_counts(x64):
    advantage, weight = RNG.normal(size=40) * 3 + 1, (np.arange(40) % 4 > 0).astype(float)
    got = np.asarray(ppo.normalise_advantage(jnp.asarray(advantage), jnp.asarray(weight)))
    counted = advantage[weight > 0]
    np.testing.assert_allclose(got, (advantage - counted.mean()) / (counted.std(ddof=1) + 1e-5), rtol=1e-12)


def test_gru_over_a_sequence_is_its_steps_and_so_is_its_gradient(x64):
    steps, n, features = 7, 3, 4
    gru = networks.Gru(features=features, inputs=3)
    params = gru.init(jax.random.key(0), jnp.zeros((n, 3)), method="project")
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    start, projected = RNG.normal(size=(n, features)), RNG.normal(size=(steps, n, 3 * features))
    valid, cut = RNG.random((steps, n)) < 0.8, np.arange(steps) % 3 == 0
    outer = RNG.normal(size=(steps, n, features))

    def one_by_one(params, start, projected):
        hidden, each = start, []
        for x, is_valid, is_cut in zip(projected, valid, cut, strict=True):
            hidden = jax.lax.stop_gradient(hidden) if is_cut else hidden
            after = gru.apply(params, hidden, x, method="step")
            hidden = jnp.where(is_valid[:, None], after, hidden)
            each.append(hidden)
        return jnp.stack(each)

    def unrolled(params, start, projected):
        return gru.apply(params, start, projected, valid, cut, method="unroll")

    arguments = params, jnp.asarray(start), jnp.asarray(projected)
    np.testing.assert_allclose(unrolled(*arguments), one_by_one(*arguments), rtol=1e-12)
    got, expected = (
        jax.grad(lambda *x, f=f: (f(*x) * outer).sum(), argnums=(0, 1, 2))(*arguments)
        for f in (unrolled, one_by_one)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), got, expected)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves((got[0]["params"]["kernel_h"], got[2])))
    assert not got[1].any()  # cut before the first step


def test_gru_is_torchs_form(x64):
    """Gates r, z, n; n = tanh(W_n x + b_n + r (U_n h + c_n)); h' = (1 - z) n + z h."""
    gru = networks.Gru(features=4, inputs=3)
    x, h = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 4))
    params = gru.init(jax.random.key(0), jnp.asarray(x), method="project")
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape)), params)
    p = {name: np.asarray(value) for name, value in params["params"].items()}
    gx, gh = x @ p["kernel_x"] + p["bias_x"], h @ p["kernel_h"] + p["bias_h"]
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    r, z = sigmoid(gx[:, :4] + gh[:, :4]), sigmoid(gx[:, 4:8] + gh[:, 4:8])
    new = np.tanh(gx[:, 8:] + r * gh[:, 8:])
    got = gru.apply(params, jnp.asarray(h), jnp.asarray(gx), method="step")
    np.testing.assert_allclose(got, (1 - z) * new + z * h, rtol=1e-10)


def test_initialisers_have_the_stated_scales():
    key = jax.random.key(0)
    columns = np.linalg.norm(networks.normc(5 / 3)(key, (40, 30)), axis=0)
    np.testing.assert_allclose(columns, 5 / 3, rtol=1e-5)
    uniform = np.asarray(networks.fan_in_uniform(100)(key, (100, 300)))
    assert abs(uniform).max() <= 0.1
    assert uniform.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    gru = networks.Gru(128, 64).init(key, jnp.zeros((1, 64)), method="project")["params"]
    kernel = np.asarray(gru["kernel_h"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(128), atol=1e-5)
    assert kernel.std() == pytest.approx(0.051, abs=0.001)
    assert not gru["bias_x"].any()


@pytest.mark.parametrize("space", [Discrete(4), Continuous(3)])
def test_policy_log_prob_and_entropy_are_scipys(space):
    policy = networks.Policy(space, (8,), 5, 4, "normc")
    obs, latent = jnp.asarray(RNG.normal(size=(6, 7))), jnp.asarray(RNG.normal(size=(6, 4)))
    params = policy.init(jax.random.key(0), obs, latent)
    distribution, value = policy.apply(params, obs, latent)
    action = networks.choose_action(space, distribution, jax.random.key(1), False)
    assert value.shape == (6,)
    assert action.shape == (6, space.size)
    log_prob = networks.action_log_prob(space, distribution, action)
    if isinstance(space, Discrete):
        probs = np.asarray(distribution.probs)
        expected = np.log(probs[np.arange(6), np.asarray(action)[:, 0].astype(int)])
        entropy = stats.entropy(probs, axis=1)
    else:
        mean = np.asarray(distribution.mode())
        expected = stats.norm.logpdf(action, mean, 1.0).sum(axis=1)  # log-std starts at 0
        entropy = np.full(6, 3 * stats.norm.entropy())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-4)
    greedy = networks.choose_action(space, distribution, jax.random.key(2), True)
    best = distribution.mode()
    np.testing.assert_array_equal(greedy if greedy.ndim == best.ndim else greedy[:, 0], best)


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
    params = {
        "encoder": encoder.init(jax.random.key(0), trajectory),
        "decoder": decoder.init(
            jax.random.key(1), jnp.zeros((trajectory.reward.shape[0], config.latent)), trajectory
        ),
    }
    return encoder, decoder, params


def test_elbo_against_loops(x64):
    """One decode at a time, with the whole concatenated input, for beliefs 0 (the prior) to T."""
    trajectory = _trajectories(3, 2, 4)
    encoder, decoder, params = _init_vae(CONFIG, trajectory)
    draws = vae.draw(CONFIG, jax.random.key(2), 3, 8, jnp.float64)
    latents = [[0, 8, 3, 3], [7, 0, 1, 0], [8, 5, 2, 8]]  # the prior and the last, some twice
    draws = draws._replace(latents=jnp.asarray(latents))
    nested = {"encoder": params["encoder"], "decoder": {"reward": params["decoder"]}}
    got, metrics = vae.negative_elbo(nested, encoder, {"reward": decoder}, trajectory, draws)

    dec = {k: np.asarray(v) for k, v in params["decoder"]["params"].items() if not isinstance(v, dict)}
    sub = {
        k: {a: np.asarray(b) for a, b in v.items()}
        for k, v in params["decoder"]["params"].items()
        if isinstance(v, dict)
    }
    layer = lambda name, x: x @ sub[name]["kernel"] + sub[name]["bias"]  # noqa: E731
    relu = lambda x: np.maximum(x, 0)  # noqa: E731

    reconstruction = kl_total = 0.0
    for b in range(3):
        hidden, beliefs = jnp.zeros((1, 6)), []
        beliefs.append(encoder.apply(params["encoder"], hidden, method="posterior"))
        for t in range(8):
            k, i = divmod(t, 4)
            hidden = encoder.apply(
                params["encoder"], hidden, trajectory.action[b, t][None], trajectory.obs[b, k, i + 1][None],
                trajectory.reward[b, t][None], method="observe",
            )  # fmt: skip
            beliefs.append(encoder.apply(params["encoder"], hidden, method="posterior"))
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


def test_gathering_steps_has_the_scatters_gradient(x64):
    x, index = jnp.asarray(RNG.normal(size=(2, 5, 3))), jnp.asarray(RNG.integers(0, 5, size=(2, 9)))
    weight = jnp.asarray(RNG.normal(size=(2, 9, 3)))
    mine = jax.grad(lambda x: (vae.take_steps(x, index) * weight).sum())(x)
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

        gradient = np.asarray(jax.grad(last_mean)(trajectory.reward))[0]
        assert (abs(gradient[1]) > 0) == reaches
        assert abs(gradient[3]) > 0
        assert gradient[5] == 0


def test_reward_scaling_against_loops(x64):
    """The reference's order, in plain numpy, over two iterations of whole tasks."""
    stats_ = running_statistics.init_state(jnp.zeros(()), std_eps=1e-8)
    seen, gamma = [], 0.9
    for _ in range(2):
        reward = RNG.normal(size=(4, 5)) * 3
        stats_, got = on_policy.normalise_rewards(stats_, jnp.asarray(reward), gamma)
        total, expected = np.zeros(4), np.zeros((4, 5))
        for t in range(5):
            total = np.zeros(4) if t == 4 else gamma * total + reward[:, t]
            seen.append(total)
            expected[:, t] = np.clip(reward[:, t] / np.sqrt(np.var(np.concatenate(seen)) + 1e-8), -10, 10)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_replay_writes_in_a_ring_and_draws_without_replacement():
    ring = replay.init(10, jax.ShapeDtypeStruct((2,), jnp.float32))
    for i in range(3):  # 4 + 4 fit; the third batch does not fit before the end and starts over
        ring = replay.add(ring, jnp.full((4, 2), float(i)))
    np.testing.assert_array_equal(ring.rows[:, 0], [2, 2, 2, 2, 1, 1, 1, 1, 0, 0])
    assert int(ring.size) == 8
    draw = jax.jit(jax.vmap(lambda key: replay.sample_indices(ring.size, key, 5)))
    index = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert all(len(set(row)) == 5 for row in index)
    counts = np.bincount(index.ravel(), minlength=8) / 4000
    np.testing.assert_allclose(counts, 5 / 8, atol=0.04)
    assert index.max() < 8


def test_replay_with_fewer_rows_than_asked_for_returns_them_all():
    index = np.asarray(replay.sample_indices(jnp.int32(3), jax.random.key(0), 5))
    assert set(index) <= {0, 1, 2}
