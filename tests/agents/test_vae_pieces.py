"""The pieces of VariBAD's belief by themselves: networks, KL, draws, optimiser, what is kept and seen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from roml_jax.agents import elbo, vae, varibad
from roml_jax.agents.history import trajectory_of
from roml_jax.types import Transition

RNG = np.random.default_rng(0)
TRAJECTORY_OF = jax.jit(trajectory_of, static_argnums=1)
DRAW = jax.jit(elbo.draw, static_argnums=(0, 2, 3, 4))


def _apply(encoder, params, method, *inputs):
    """One of the encoder's methods, in one program."""
    return jax.jit(lambda *arguments: encoder.apply(*arguments, method=method))(params, *inputs)


def _encoder_and_decoder(config, init=False):
    """Modules and parameters, any numbers or as they start."""
    trajectory = TRAJECTORY_OF(toys.rollout(RNG), toys.SQUASHED)
    encoder, decoder = vae.Encoder(config, toys.D, toys.A), vae.StepDecoder(config, toys.D, toys.A)
    z = np.zeros((toys.N, config.latent))

    def start(key):
        return {
            "encoder": encoder.init(key, trajectory),
            "decoder": {"reward": decoder.init(key, z, trajectory)},
        }

    key = jax.random.key(0)
    params = jax.jit(start)(key) if init else toys.random(RNG, jax.eval_shape(start, key))
    return encoder, {"reward": decoder}, params, trajectory


def _chain():
    return RNG.normal(size=(2, 4, 3)), RNG.normal(size=(2, 4, 3))


def test_kl_is_to_the_belief_before_and_of_the_first_to_the_standard_normal(x64):
    mean, logvar = _chain()
    expected = np.zeros((2, 4))
    for b in range(2):
        for t in range(4):
            m0, s0 = (mean[b, t - 1], np.exp(logvar[b, t - 1])) if t else (np.zeros(3), np.ones(3))
            m1, s1 = mean[b, t], np.exp(logvar[b, t])
            expected[b, t] = 0.5 * np.sum(np.log(s0 / s1) + (s1 + (m1 - m0) ** 2) / s0 - 1)
    got = jax.jit(elbo.kl_chain)(vae.Posterior(jnp.asarray(mean), jnp.asarray(logvar)))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_a_kl_terms_gradient_reaches_both_beliefs(x64):
    mean, logvar = _chain()
    gradient = jax.jit(jax.grad(lambda q: elbo.kl_chain(q)[0, 2]))(vae.Posterior(mean, logvar))
    m0, m1, v0, v1 = mean[0, 1], mean[0, 2], np.exp(logvar[0, 1]), np.exp(logvar[0, 2])
    gradient = jax.tree.map(np.asarray, gradient)
    np.testing.assert_allclose(gradient.mean[0, 2], (m1 - m0) / v0, rtol=1e-10)
    np.testing.assert_allclose(gradient.mean[0, 1], -(m1 - m0) / v0, rtol=1e-10)
    np.testing.assert_allclose(gradient.logvar[0, 1], 0.5 * (1 - (v1 + (m1 - m0) ** 2) / v0), rtol=1e-9)
    np.testing.assert_allclose(gradient.logvar[0, 2], 0.5 * (v1 / v0 - 1), rtol=1e-9)
    assert not gradient.mean[0, [0, 3]].any()


def test_beliefs_are_drawn_from_0_to_t_and_steps_before_t_with_replacement():
    config = vae.VaeConfig(latent=2, latents=5, decodes=4)
    drawn = jax.tree.map(np.asarray, DRAW(config, jax.random.key(0), 400, 4, jnp.float32))
    for index, shape, values in ((drawn.latents, (400, 5), 5), (drawn.steps, (400, 5, 4), 4)):
        assert index.shape == shape
        np.testing.assert_allclose(
            np.bincount(index.ravel()) / index.size, np.full(values, 1 / values), atol=0.04
        )
        # of as many draws as there are values, almost no row holds each just once
        assert np.mean([len(set(row)) == values for row in np.asarray(index).reshape(-1, values)]) < 0.15
    assert drawn.noise.shape == (400, 5, 2)  # one per belief, not per draw
    assert float(drawn.noise.mean()) == pytest.approx(0, abs=0.06)
    assert float(drawn.noise.std()) == pytest.approx(1, abs=0.06)


def test_without_a_number_to_draw_every_belief_is_decoded_at_every_step(x64):
    config = vae.VaeConfig(**toys.SIZES)
    encoder, decoders, params, trajectory = _encoder_and_decoder(config)
    drawn = jax.tree.map(np.asarray, DRAW(config, jax.random.key(0), toys.N, toys.T, jnp.float64))
    np.testing.assert_array_equal(drawn.latents, np.tile(np.arange(toys.T + 1), (toys.N, 1)))
    assert drawn.steps is None
    steps = jnp.asarray(np.tile(RNG.permutation(toys.T), (toys.N, toys.T + 1, 1)))
    one_by_one = drawn._replace(latents=drawn.latents[:, ::-1], steps=steps)
    loss = jax.jit(lambda draws: elbo.negative_elbo(params, encoder, decoders, trajectory, draws))
    got, expected = loss(drawn), loss(one_by_one)
    assert float(got[0]) == pytest.approx(float(expected[0]), rel=1e-10)
    for name, value in got[1].items():
        assert float(value) == pytest.approx(float(expected[1][name]), rel=1e-10), name


@pytest.mark.parametrize("sizes", [{}, {"latents": 5, "decodes": 4}], ids=["every step", "drawn steps"])
def test_errors_in_blocks_are_those_of_all_at_once(x64, monkeypatch, sizes):
    """Value and gradient, also where the last block is not full."""
    config = vae.VaeConfig(**toys.SIZES | sizes)
    encoder, decoders, params, trajectory = _encoder_and_decoder(config)
    draws = DRAW(config, jax.random.key(0), toys.N, toys.T, jnp.float64)

    def compiled():
        function = jax.value_and_grad(
            lambda params: elbo.negative_elbo(params, encoder, decoders, trajectory, draws), has_aux=True
        )
        return jax.jit(function).lower(params).compile()

    whole = compiled()
    monkeypatch.setattr(elbo, "_WHOLE", 0)
    latents, decodes = draws.latents.shape[1], sizes.get("decodes", toys.T)
    monkeypatch.setattr(elbo, "_BLOCK", 2 * toys.N * decodes)  # two latents a block
    blocks = compiled()
    assert latents % 2  # so the last block has one
    assert blocks.as_text().count("while(") > whole.as_text().count("while(")
    chex.assert_trees_all_close(blocks(params), whole(params), rtol=1e-9, atol=1e-12)


def test_the_grus_inputs_are_relu_embeddings_of_action_next_observation_and_reward(x64):
    encoder, _, params, _ = _encoder_and_decoder(vae.VaeConfig(**toys.SIZES))
    params = params["encoder"]
    action, obs, reward = RNG.normal(size=(6, toys.A)), RNG.normal(size=(6, toys.D)), RNG.normal(size=6)
    p = jax.tree.map(np.asarray, params["params"])
    embedded = [
        np.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0)
        for name, x in (("embed_action", action), ("embed_obs", obs), ("embed_reward", reward[:, None]))
    ]
    expected = np.concatenate(embedded, axis=1) @ p["gru"]["kernel_x"] + p["gru"]["bias_x"]
    got = _apply(encoder, params, "project", action, obs, reward)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_beliefs_are_linear_in_the_hidden_state(x64):
    encoder, _, params, _ = _encoder_and_decoder(vae.VaeConfig(**toys.SIZES))
    params = params["encoder"]
    p, hidden = jax.tree.map(np.asarray, params["params"]), RNG.normal(size=(4, toys.SIZES["hidden"]))
    got = _apply(encoder, params, "posterior", hidden)
    for name in ("mean", "logvar"):
        np.testing.assert_allclose(
            getattr(got, name), hidden @ p[name]["kernel"] + p[name]["bias"], rtol=1e-10
        )
    prior = _apply(encoder, params, "posterior", np.zeros((1, hidden.shape[1])))
    features = np.asarray(prior.features())
    np.testing.assert_array_equal(features[0], [*p["mean"]["bias"], *p["logvar"]["bias"]])


def test_all_layers_but_the_gru_start_as_torchs_do():
    """U(-1, 1) / sqrt(fan in), weight and bias; of the decoder's first layer that is its whole input."""
    sizes = {"latent": 9, "hidden": 40, "obs_embedding": 12, "action_embedding": 10, "reward_embedding": 16}
    _, _, params, _ = _encoder_and_decoder(vae.VaeConfig(**sizes, decoder_layers=(30, 20)), init=True)
    encoder, decoder = params["encoder"]["params"], params["decoder"]["reward"]["params"]
    layers = [
        (encoder["embed_action"], toys.A), (encoder["embed_obs"], toys.D), (encoder["embed_reward"], 1),
        (encoder["mean"], 40), (encoder["logvar"], 40),
        (decoder["embed_action"], toys.A), (decoder["embed_obs"], toys.D),
        ({name: decoder[name] for name in ("kernel", "bias")}, 9 + 12 + 10 + 12),
        (decoder["second"], 30), (decoder["out"], 20),
    ]  # fmt: skip
    assert len(layers) == len(encoder) - 1 + len(decoder) - 1  # the GRU; kernel and bias are one layer
    for layer, fan_in in layers:
        for name, value in layer.items():
            largest = abs(np.asarray(value)).max() * fan_in**0.5
            assert largest <= 1, (name, value.shape)
            assert largest > (0.6 if value.size > 8 else 0), (name, value.shape)


def test_the_encoder_learns_from_raw_observations_and_rewards_and_squashed_actions():
    seen = toys.rollout(RNG)
    got = jax.tree.map(np.asarray, TRAJECTORY_OF(seen, toys.SQUASHED))
    np.testing.assert_array_equal(got.obs, seen.obs)
    assert got.action.shape == (toys.N, toys.T, toys.A)
    for n in range(toys.N):
        for t in range(toys.T):
            k, h = divmod(t, toys.H)
            assert got.reward[n, t] == seen.reward[n, k, h]
            np.testing.assert_allclose(got.action[n, t], np.tanh(seen.action[n, k, h]), rtol=1e-6)
    assert got.task is None


def test_acting_forms_the_belief_that_is_learned_from(x64):
    """Step by step as over the whole trajectory, of raw inputs: whatever the policy's statistics are."""
    valid = np.ones((toys.N, toys.K, toys.H), bool)
    valid[1, 0, 2:] = False
    config, seen = toys.config(), toys.rollout(RNG, valid=valid)
    agent = varibad.make(toys.spec(), toys.N, config)
    encoder = varibad.make_networks(toys.spec(), config).encoder
    state = toys.state(RNG, agent, config)
    obs = state.statistics.obs.replace(mean=jnp.full(toys.D, 7.0), std=jnp.full(toys.D, 3.0))
    state = state._replace(statistics=state.statistics._replace(obs=obs))
    episodes = Transition(seen.obs[:, :, :-1], seen.action, seen.reward, seen.obs[:, :, 1:], seen.valid)
    steps = jax.tree.map(lambda x: np.moveaxis(x.reshape(toys.N, toys.T, *x.shape[3:]), 1, 0), episodes)

    @jax.jit
    def both(state):
        def latent(belief):
            obs = jnp.zeros((toys.N, toys.D))
            return agent.act(state, belief, obs, jax.random.key(2), jnp.zeros((), bool))[1]

        def observe(belief, step):
            belief = agent.observe(state, belief, step)
            return belief, latent(belief)

        start = agent.begin(state, jax.random.key(1), toys.N)
        _, later = jax.lax.scan(observe, start, steps)
        whole = encoder.apply(state.belief["encoder"], trajectory_of(seen, toys.SQUASHED)).features()
        return jnp.concatenate([latent(start)[None], later]), whole

    acting, learning = both(state)
    np.testing.assert_allclose(np.moveaxis(acting, 0, 1), learning, rtol=1e-9)
    assert len(np.unique(learning[1], axis=0)) == toys.T + 1 - 2  # what is not valid teaches nothing


def test_encoder_and_decoders_are_clipped_apart_and_adam_follows(x64):
    config = vae.VaeConfig(**toys.SIZES, state_weight=1.0)
    decoders = vae.make_decoders(config, toys.D, toys.A, 0)
    gradients = {
        "encoder": {"a": jnp.array([6.0, 0.0]), "b": jnp.array([[-8.0]])},  # norm 10
        "decoder": {"reward": {"a": jnp.array([0.1, -1e-8])}, "state": {"a": jnp.array([3.0, 4.0])}},
    }
    transform = varibad.belief_optimiser(config, decoders)
    updates, (_, adam) = jax.jit(lambda g: transform.update(g, transform.init(g)))(gradients)
    clipped = jax.tree.map(lambda m: np.asarray(m) / 0.1, adam.mu)  # the mean after one step of decay 0.9
    np.testing.assert_allclose(clipped["encoder"]["a"], [0.6, 0], rtol=1e-9)
    np.testing.assert_allclose(clipped["encoder"]["b"], [[-0.8]], rtol=1e-9)
    np.testing.assert_allclose(clipped["decoder"]["reward"]["a"], [0.1, -1e-8], rtol=1e-9)  # small: as it was
    np.testing.assert_allclose(clipped["decoder"]["state"]["a"], [0.6, 0.8], rtol=1e-9)
    np.testing.assert_allclose(updates["encoder"]["b"], [[-1]], rtol=1e-6)
    np.testing.assert_allclose(updates["decoder"]["reward"]["a"], [1, -0.5], rtol=1e-6)  # eps 1e-8


def met(**options):
    """Three iterations in which the sampler keeps one task; every reward of a trajectory is its number.

    Their rollouts, the state after them, and the trajectories that the last one's gradient steps drew.
    """
    config = toys.config(updates=40, batch_trajectories=4, **options)
    agent, rollouts = varibad.make(toys.spec(), toys.N, config), []
    state, update = toys.state(RNG, agent, config), jax.jit(agent.update)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varibad, "update_policy", lambda state, *_: (state, {}))
        patch.setattr(
            varibad, "update_belief", lambda state, *rest: (state, {"drawn": rest[2].reward[..., 0]})
        )
        for i in range(3):
            number = (np.arange(toys.N) + i * toys.N)[:, None, None]
            rollouts.append(toys.rollout(RNG, np.tile(number, (toys.K, toys.H))))
            state, metrics = update(
                state, rollouts[-1], toys.weights((0, 1, 0)), jax.random.key(i), jnp.asarray(0.0)
            )
    return rollouts, state, np.asarray(metrics["vae/drawn"]).astype(int)


@pytest.fixture(scope="module")
def kept():
    return met()


@pytest.mark.parametrize(
    ("capacity", "drawn"), [(100, range(2 * toys.N)), (2 * toys.N, range(toys.N, 3 * toys.N))]
)
def test_the_newest_are_not_drawn_before_the_replay_is_full_where_so_wished(capacity, drawn):
    """With room for two iterations the third overwrites the first, and is drawn."""
    _, _, found = met(draw_newest=False, buffer_trajectories=capacity)
    assert set(found.ravel()) == set(drawn)


def test_replay_keeps_every_task_with_its_terminal_observations(kept):
    """Those, too, that the sampler filters out."""
    rollouts, state, _ = kept
    rows = state.replay.rows
    assert int(state.replay.size) == 3 * toys.N
    for i, seen in enumerate(rollouts):
        part, action = slice(i * toys.N, (i + 1) * toys.N), np.tanh(seen.action)
        np.testing.assert_array_equal(rows.obs[part], seen.obs)
        np.testing.assert_allclose(rows.action[part], action.reshape(toys.N, toys.T, toys.A), rtol=1e-5)
        np.testing.assert_array_equal(rows.reward[part], seen.reward.reshape(toys.N, toys.T))
        assert rows.valid[part].all()


def test_what_has_just_been_met_is_drawn_as_what_was_met_before(kept):
    _, _, drawn = kept
    counts = np.bincount(drawn.ravel(), minlength=3 * toys.N)
    assert len(counts) == 3 * toys.N
    np.testing.assert_allclose(counts / 40, 4 / 9, atol=0.25)  # three deviations


def test_each_gradient_step_draws_other_trajectories_none_twice(kept):
    _, _, drawn = kept
    assert drawn.shape == (40, 4)
    assert all(len(set(row)) == 4 for row in drawn)
    assert len({frozenset(row) for row in drawn}) > 20


def test_the_beliefs_learning_rate_is_not_annealed(monkeypatch):
    """Its first step of Adam is as long at a run's end as ever, where the policy's would be none."""
    monkeypatch.setattr(varibad, "update_policy", lambda state, *_: (state, {}))
    monkeypatch.setattr(
        elbo, "negative_elbo", lambda params, *_: (sum(x.sum() for x in jax.tree.leaves(params)), {})
    )
    config = toys.config({"anneal_lr": True}, lr=0.25)
    agent = varibad.make(toys.spec(), toys.N, config)
    before = toys.state(RNG, agent, config)._replace(frames=jnp.asarray(1))
    update, key = jax.jit(agent.update), jax.random.key(1)
    after, _ = update(before, toys.rollout(RNG), toys.weights(), key, jnp.asarray(1.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a - 0.25, atol=1e-5), before.belief, after.belief)
