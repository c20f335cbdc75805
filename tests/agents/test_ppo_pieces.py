"""The pieces of the policy's learning by themselves: inputs, statistics, PPO, evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from roml_jax import envs, rollout
from roml_jax.agents import base, on_policy, ppo, statistics, varibad

RNG = np.random.default_rng(0)
LATENT = 2 * toys.SIZES["latent"]


def _updated(*rollouts):
    @jax.jit
    def update(rollouts):
        stats = on_policy.init_statistics(toys.D, LATENT)
        for one in rollouts:
            stats = on_policy.update_statistics(stats, one, one.extras)
        return stats

    return update(rollouts)


def test_statistics_are_of_all_that_actions_were_chosen_from(x64):
    """The flag, the last input, included; not what came of the last step nor of steps that are not valid."""
    valid = np.ones((toys.N, toys.K, toys.H), bool)
    valid[1, 0, 2:] = False
    rollouts = [toys.rollout(RNG, valid=valid), toys.rollout(RNG)]
    seen = {"obs": [], "latent": []}
    for i, one in enumerate(rollouts):
        one.obs[:] = one.obs * (1 + 3 * i) + 5 * i
        one.obs[..., -1] = 0
        one.obs[:, 1:, 0, -1] = 1
        one.obs[:, :, -1] = 1e6
        one.obs[:, :, :-1][~one.valid] = 1e6
        one.extras[~one.valid] = 1e6
        seen["obs"].append(one.obs[:, :, :-1][one.valid])
        seen["latent"].append(one.extras[one.valid])
    stats = _updated(*rollouts)
    for name, parts in seen.items():
        every, got = np.concatenate(parts), getattr(stats, name)
        np.testing.assert_allclose(got.mean, every.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(got.std, np.sqrt(every.var(axis=0) + 1e-8), rtol=1e-6)
    assert 0 < stats.obs.mean[-1] < 1


@pytest.mark.parametrize("normalise_latent", [True, False])
def test_inputs_are_divided_by_their_deviations_and_not_clipped(normalise_latent, x64):
    options = ppo.PpoConfig(normalise_latent=normalise_latent)
    met = toys.rollout(RNG)
    met.obs[..., 1] = 0.25  # constant so far: its deviation is 1e-4
    stats, obs, latent = _updated(met), np.array([[0.3, 1.25, -2.0]]), RNG.normal(size=(1, LATENT))
    got_obs, got_latent = on_policy.policy_inputs(options, stats, obs, latent)
    chosen_from = met.obs[:, :, :-1].reshape(-1, toys.D)
    expected = (obs - chosen_from.mean(axis=0)) / np.sqrt(chosen_from.var(axis=0) + 1e-8)
    np.testing.assert_allclose(got_obs, expected, rtol=1e-5)
    assert float(got_obs[0, 1]) == pytest.approx(1e4, rel=1e-5)
    latents = met.extras.reshape(-1, LATENT)
    normalised = (latent - latents.mean(axis=0)) / np.sqrt(latents.var(axis=0) + 1e-8)
    np.testing.assert_allclose(got_latent, normalised if normalise_latent else latent, rtol=1e-5)


def test_in_the_first_iteration_only_rewards_are_counted(monkeypatch):
    """Nothing else but the replay changes; in the second, statistics of inputs and the policy do."""
    one_more = lambda params, opt_state, *_, **__: (jax.tree.map(lambda x: x + 1, params), opt_state, {})  # noqa: E731
    monkeypatch.setattr(ppo, "update", one_more)
    monkeypatch.setattr(
        varibad, "update_belief", lambda state, *_: (state._replace(belief=one_more(state.belief, ())[0]), {})
    )
    options = toys.config()
    agent = varibad.make(toys.spec(), toys.N, options)
    update, states = jax.jit(agent.update), [toys.state(RNG, agent, options)]
    for i in range(2):
        met, key = toys.rollout(RNG), jax.random.key(i)
        states.append(update(states[-1], met, toys.weights(), key, np.float32(0))[0])
    for first, before, after in zip((True, False), states, states[1:], strict=False):
        parts = before._asdict() | before.statistics._asdict(), after._asdict() | after.statistics._asdict()
        leaves = [{name: jax.tree.leaves(part) for name, part in each.items()} for each in parts]
        same = {name for name in leaves[0] if all(map(np.array_equal, leaves[0][name], leaves[1][name]))}
        learned = {"policy", "belief", "obs", "latent"}
        assert same == {"policy_opt", "belief_opt", "rates"} | (learned if first else set())
    for i, state in enumerate(states):
        assert int(state.statistics.return_.count.lo) == i * toys.N * toys.T
        assert int(state.statistics.obs.count.lo) == max(i - 1, 0) * toys.N * toys.T


def test_a_scaled_reward_is_ten_at_most(x64):
    """After almost nothing but zeros a reward of 3 is some 14 deviations of the return."""
    reward = np.zeros((2, 230))
    reward[:, 100] = 0.5, -0.5
    reward[:, 200] = 3, -3
    stats = statistics.init(jnp.zeros(()), 1e-8)
    _, got = jax.jit(on_policy.normalise_rewards, static_argnums=2)(stats, reward, 0.0)
    np.testing.assert_array_equal(got[:, 200], [10, -10])
    np.testing.assert_array_equal(abs(got) <= 10, np.ones_like(reward))


def test_old_log_probs_are_of_the_new_statistics_and_old_values_of_the_old(monkeypatch, x64):
    """And PPO learns from the latents of the rollout."""
    options = toys.config().ppo
    policy = on_policy.make_policy(toys.spec(), options, LATENT)
    params = toys.random(
        RNG, jax.eval_shape(policy.init, jax.random.key(0), jnp.zeros(toys.D), jnp.zeros(LATENT))
    )
    old, met = _updated(toys.rollout(RNG)), toys.rollout(RNG)
    met.obs[:] = 2 * met.obs + 1
    monkeypatch.setattr(
        ppo, "update", lambda params, opt_state, _, batch, __, **rates: (params, opt_state, batch)
    )
    learned = on_policy.Learned(params, (), old, {"ppo.lr": 1e-3, "ppo.entropy_coef": 0.0})

    @jax.jit
    def update(learned, met):
        after, batch = on_policy.update(
            learned, policy, options, met, met.extras, met.reward, toys.weights(), jax.random.key(0), 0.0
        )
        return after.statistics, batch

    new, batch = update(learned, met)
    flat = lambda x: x.reshape(toys.N * toys.T, -1)  # noqa: E731
    obs, latent, action = flat(met.obs[:, :, :-1]), flat(met.extras), flat(met.action)
    scaled = lambda x, stats: (x - np.asarray(stats.mean)) / np.asarray(stats.std)  # noqa: E731
    np.testing.assert_allclose(batch.inputs[0], scaled(obs, new.obs), rtol=1e-6)
    np.testing.assert_allclose(batch.inputs[1], scaled(latent, new.latent), rtol=1e-6)
    np.testing.assert_array_equal(batch.action, action)

    @jax.jit
    def opinion(obs, latent):
        distribution, value = policy.apply(params, obs, latent)
        return distribution.mode(), value

    mean, _ = opinion(*batch.inputs)
    std = np.exp(params["params"]["log_std"])
    z = (action - np.asarray(mean)) / std
    log_prob = -0.5 * (z**2).sum(axis=1) - np.log(std * np.sqrt(2 * np.pi)).sum()
    np.testing.assert_allclose(batch.log_prob, log_prob, rtol=1e-8)
    _, value = opinion(scaled(obs, old.obs), scaled(latent, old.latent))
    np.testing.assert_allclose(batch.value, value, rtol=1e-8)


def test_the_last_step_of_each_episode_has_its_own_value_as_target_and_trains_with_a_constant(x64):
    """So do all steps of a task that the sampler filters out, here task 1."""
    options, met = ppo.PpoConfig(gamma=0.9, gae_lambda=0.8), toys.rollout(RNG)
    value, log_prob = RNG.normal(size=(2, toys.N, toys.K, toys.H))
    weights = toys.weights()._replace(keep=np.array([1.0, 0.0, 1.0]))
    make = jax.jit(lambda *x: on_policy.make_batch(options, met, met.reward, weights, (), *x))
    batch = make(log_prob, value)
    raw = np.zeros_like(value)
    for n in (0, 2):
        for k in range(toys.K):
            for h in reversed(range(toys.H - 1)):
                delta = met.reward[n, k, h] + 0.9 * value[n, k, h + 1] - value[n, k, h]
                raw[n, k, h] = delta + 0.9 * 0.8 * raw[n, k, h + 1]
    by_step = lambda x: np.asarray(x).reshape(value.shape)  # noqa: E731
    np.testing.assert_allclose(by_step(batch.return_), raw + value, rtol=1e-10)
    constant = -raw.mean() / (raw.std(ddof=1) + 1e-5)
    for place in ((slice(None), slice(None), -1), (1,)):
        np.testing.assert_array_equal(by_step(batch.return_)[place], value[place])
        np.testing.assert_allclose(by_step(batch.advantage)[place], constant, rtol=1e-9)
    np.testing.assert_array_equal(batch.weight, np.ones((toys.N, toys.T)))


RATIO, SIGN = np.tile([0.5, 1.0, 2.0], 2), np.repeat([1.0, -1.0], 3)


def _batch(inputs, advantage):
    zero = np.zeros(len(advantage))
    parts = inputs, zero[:, None], zero, zero, zero, advantage, zero + 1, zero == 0
    return ppo.PpoBatch(*jax.tree.map(jnp.asarray, parts))


def test_the_surrogate_takes_the_worse_of_the_ratio_and_the_clipped_ratio(x64):
    options = ppo.PpoConfig(clip=0.1, value_coef=0.5)

    def judge(log_ratio, inputs, action):
        return ppo.Judged(log_ratio, jnp.full(6, 3.0), jnp.full(6, 4.0))

    def loss(log_ratio):
        return ppo.loss(log_ratio, judge, _batch((), SIGN), options, 0.01)

    (got, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(np.log(RATIO))
    terms = np.array([0.5, 1, 1.1, -0.9, -1, -2])
    assert float(metrics["policy_loss"]) == pytest.approx(-terms.mean(), rel=1e-12)
    # the value moved by 4, beyond what is clipped to 0.1: the larger loss is the free one's, 0.5 * 3.5
    assert float(got) == pytest.approx(-terms.mean() + 0.5 * (0.5 * 3.5) - 0.01 * 3, rel=1e-12)
    assert float(metrics["clip_share"]) == pytest.approx(2 / 3)
    np.testing.assert_allclose(gradient, -np.array([0.5, 1, 0, 0, -1, -2]) / 6, rtol=1e-12)


def test_each_epoch_takes_every_transition_once_in_another_order():
    options, total, seen = ppo.PpoConfig(epochs=3, minibatches=4), 24, []

    def judge(params, inputs, action):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), inputs, ordered=True)
        return ppo.Judged(*[params * action[:, 0]] * 3)

    @jax.jit
    def update(params, batch):
        start, key = ppo.init_optimiser(options, params), jax.random.key(0)
        return ppo.update(params, start, judge, batch, options, lr=1e-3, entropy_coef=0.0, key=key)

    update(jnp.zeros(()), _batch(np.arange(total), np.ones(total)))
    jax.effects_barrier()
    assert [len(part) for part in seen] == [total // 4] * 12
    epochs = np.concatenate(seen).reshape(3, total)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(total), (3, 1)))
    assert len({tuple(row) for row in [*epochs, np.arange(total)]}) == 4
    assert np.mean(abs(np.diff(epochs)) == 1) < 0.4  # single transitions, not runs of them


def _of_tasks(weight):
    """Two tasks of three steps; minibatches of one task."""
    tasks = {"inputs": np.array([1.0, 2.0]), "advantage": np.array([[1.0, -1, 2], [3, 1, -2]])}
    zero, valid = np.zeros((2, 3)), np.ones((2, 3), bool)
    valid[1, 2] = False
    parts = (
        tasks["inputs"], zero[..., None], zero, zero, zero, tasks["advantage"],
        np.array(weight)[:, None] * valid, valid,
    )  # fmt: skip
    return ppo.PpoBatch(*jax.tree.map(jnp.asarray, parts))


@jax.jit
def _one_epoch(params, opt_state, batch, lr):
    options = ppo.PpoConfig(epochs=1, minibatches=2)

    def judge(params, inputs, action):
        return ppo.Judged(*[inputs[:, None] * params * jnp.ones(action.shape[:-1])] * 3)

    return ppo.update(
        params, opt_state, judge, batch, options, lr=lr, entropy_coef=0.0, key=jax.random.key(0)
    )


def test_tasks_alone_in_their_minibatches_keep_their_weights(x64):
    params = jnp.ones(())
    start = ppo.init_optimiser(ppo.PpoConfig(), params)

    def gradients(*weight):
        return 2 * float(_one_epoch(params, start, _of_tasks(weight), 0.0)[2]["grad_norm"])

    first, second = gradients(5.0, 0.0), gradients(0.0, 5.0)  # all weight on one: twice, or 5 / 3 of, its own
    mean = (3 * 3.0 + 2 * 1.0) / 5  # weight of a step that happened
    own = first / (5 / 3), second / (5 / 2)
    assert gradients(3.0, 1.0) == pytest.approx(3 / mean * own[0] + 1 / mean * own[1], rel=1e-9)
    assert gradients(1.0, 1.0) == pytest.approx(own[0] + own[1], rel=1e-9)
    assert min(own) > 0.1


@pytest.mark.parametrize("one", [0, 1])
def test_without_weight_nothing_moves_on_with_adams_mean(one, x64):
    """A second update leaves out all tasks; then a second leaves out one, and is of one step."""
    params = jnp.ones(())
    start = ppo.init_optimiser(ppo.PpoConfig(), params)
    params, opt_state, _ = _one_epoch(params, start, _of_tasks((1.0, 1.0)), 0.1)
    still, same, _ = _one_epoch(params, opt_state, _of_tasks((0.0, 0.0)), 0.1)
    assert float(still) == float(params)
    assert same[1].count == opt_state[1].count == 2
    moved, after, _ = _one_epoch(params, opt_state, _of_tasks((float(one == 0), float(one == 1))), 0.1)
    assert float(moved) != float(params)
    assert after[1].count == 3


def test_one_gradient_norm_over_all_parameters_is_clipped_and_adam_follows(x64):
    transform = ppo.optimiser(ppo.PpoConfig())
    gradients = {"actor": np.array([3.0, 0.0]), "log_std": np.array([-4.0, 1e-7])}
    updates, (_, adam) = jax.jit(lambda g: transform.update(g, transform.init(g)))(gradients)
    np.testing.assert_allclose(adam.mu["actor"] / 0.1, [0.3, 0], rtol=1e-9)  # a norm of 5 becomes 0.5
    np.testing.assert_allclose(adam.mu["log_std"] / 0.1, [-0.4, 1e-8], rtol=1e-9)
    np.testing.assert_allclose(updates["log_std"], [-1, 0.5], rtol=1e-6)  # eps 1e-8
    small = {"actor": np.array([0.3]), "log_std": np.array([0.3])}
    _, (_, adam) = transform.update(small, transform.init(small))
    np.testing.assert_allclose(adam.mu["actor"] / 0.1, 0.3, rtol=1e-9)


@pytest.mark.parametrize(("anneal", "expected"), [(True, [0.2, 0.1, 0.0]), (False, [0.2, 0.2, 0.2])])
def test_the_learning_rate_falls_linearly_to_nothing_or_stays(anneal, expected):
    options, rates = ppo.PpoConfig(lr=9.0, anneal_lr=anneal), {"ppo.lr": 0.2}
    got = [float(on_policy.learning_rate(options, rates, progress)) for progress in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def _recorder(exploring):
    """Records whether it was to be greedy, and how many steps it has met since ``begin``."""

    def act(state, belief, obs, key, greedy):
        return jnp.zeros((len(obs), 1)), (jnp.broadcast_to(greedy, belief.shape), belief)

    return base.Agent(
        init=None, begin=lambda state, key, n: jnp.zeros(n), act=act,
        observe=lambda state, belief, step: belief + 1, adapt=None, update=None, exploring=exploring,
    )  # fmt: skip


@pytest.mark.parametrize("exploring", [0, 1])
def test_evaluations_are_greedy_where_nothing_explores_and_begin_from_the_prior(exploring):
    env, protocol = envs.make("probe_memory"), rollout.EpisodeProtocol(horizon=2, test_episodes=3)
    agent, tasks, key = _recorder(exploring), jnp.full((4, 1), 0.5), jax.random.key(0)

    @jax.jit
    def both():
        tested, _ = rollout.run_test(agent, env, protocol, (), tasks, key, record=True)
        return tested.extras, rollout.make_learner(agent, env, protocol).collect((), tasks, key)[1].extras

    (greedy, belief), (collected, _) = both()
    np.testing.assert_array_equal(greedy, np.broadcast_to(np.arange(3)[:, None] >= exploring, (4, 3, 2)))
    np.testing.assert_array_equal(belief, np.broadcast_to(np.arange(6).reshape(3, 2), (4, 3, 2)))
    assert collected.shape == (4, 2, 2)
    assert not collected.any()


def test_a_test_takes_the_likeliest_actions_and_leaves_the_learner_as_it_was():
    """Nothing in this environment is left to chance, so the key decides nothing."""
    env, protocol, options = envs.make("probe_memory"), rollout.EpisodeProtocol(horizon=3), toys.config()
    agent = varibad.make(protocol.agent_spec(env.spec), toys.N, options)
    learner, state = rollout.make_learner(agent, env, protocol), toys.state(RNG, agent, options)
    state, tasks = jax.device_put(state), jnp.linspace(0.1, 0.9, 20)[:, None]

    def both(state, key):
        return learner.test(state, tasks, key).returns, learner.collect(state, tasks, key)[2].returns

    before, both = jax.tree.map(np.array, state), jax.jit(jax.vmap(both, in_axes=(None, 0)))
    returns, drawn = both(state, jax.random.split(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, before, state)
    assert returns.shape == (2, 20, 2)
    np.testing.assert_array_equal(*returns)
    assert not np.array_equal(*drawn)
