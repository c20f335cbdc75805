"""PPO's returns and losses, against loops."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.acme import running_statistics

from roml_jax.agents import on_policy, ppo, statistics
from roml_jax.types import TaskWeights

RNG = np.random.default_rng(0)

gae, value_losses, normalise_advantage = map(jax.jit, (ppo.gae, ppo.value_losses, ppo.normalise_advantage))
normalise_rewards = jax.jit(on_policy.normalise_rewards, static_argnums=2)


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
    got = np.asarray(gae(reward, value, keep, gamma, lam))
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert (got[:, :, -1] == 0).all()
    assert (got[1] == 0).all()


def test_gae_does_not_see_an_episodes_last_reward_or_the_next_episode(x64):
    reward, value = RNG.normal(size=(1, 2, 5)), RNG.normal(size=(1, 2, 5))
    keep = np.ones((1, 2, 5))
    keep[..., -1] = 0
    changed = reward.copy()
    changed[0, 0, -1] += 100
    changed[0, 1] += 100
    before, after = (np.asarray(gae(r, value, keep, 0.9, 0.9)) for r in (reward, changed))
    np.testing.assert_array_equal(before[0, 0], after[0, 0])


def test_value_loss_against_loops(x64):
    value, old, target, clip = *(2 * RNG.normal(size=(3, 50))), 0.1

    def huber(x):
        return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5

    terms = [
        max(huber(v - r), huber(o + np.clip(v - o, -clip, clip) - r))
        for v, o, r in zip(value, old, target, strict=True)
    ]
    got = value_losses(value, old, target, clip)
    np.testing.assert_allclose(got, 0.5 * np.array(terms), rtol=1e-12)


def test_advantages_are_normalised_over_what_counts(x64):
    advantage, weight = RNG.normal(size=40) * 3 + 1, (np.arange(40) % 4 > 0).astype(float)
    got = np.asarray(normalise_advantage(advantage, weight))
    counted = advantage[weight > 0]
    np.testing.assert_allclose(got, (advantage - counted.mean()) / (counted.std(ddof=1) + 1e-5), rtol=1e-12)


def test_reward_statistics_are_those_of_updates_step_by_step():
    """In float32, with returns far from 0 and statistics that have already seen many."""
    one_by_one = running_statistics.init_state(jnp.zeros(()), std_eps=1e-8)
    update = jax.jit(running_statistics.update)
    seen = np.asarray(100 + RNG.normal(size=50_000), np.float32)
    one_by_one = update(one_by_one, seen)
    start = statistics.init(jnp.zeros(()), 1e-8)
    stats = jax.jit(statistics.update)(start, seen, np.ones(50_000, np.float32))
    reward = np.asarray(5 + RNG.normal(size=(16, 300)), np.float32)
    total, expected = np.zeros(16, np.float32), []
    for t in range(300):
        total = np.zeros(16, np.float32) if t == 299 else np.float32(0.95) * total + reward[:, t]
        one_by_one = update(one_by_one, total)
        expected.append(reward[:, t] / np.asarray(one_by_one.std))
    after, got = normalise_rewards(stats, reward, 0.95)
    np.testing.assert_allclose(got, np.stack(expected, axis=1), rtol=3e-5)
    assert int(after.count.lo) == int(one_by_one.count.lo) == 50_000 + 16 * 300
    for name in ("mean", "std", "summed_variance"):
        np.testing.assert_allclose(getattr(after, name), getattr(one_by_one, name), rtol=3e-5)


@pytest.mark.parametrize("credit", ["episode", "task"])
def test_breaking_the_simulation_is_no_gain_where_rewards_are_costs(credit):
    """Every step costs 0.1, and the critic knows the cost of a whole episode; the second task diverges."""
    n, k, h, gamma = 3, 2, 20, 0.97
    to_come = -0.1 * np.cumsum(gamma ** np.arange(h))[::-1]
    valid = np.ones((n, k, h), bool)
    valid[1, 0, 5:] = valid[2, 0, 5:] = False
    diverged = np.zeros((n, k), bool)
    diverged[1, 0] = True  # the third task ends by itself
    reward, value = np.where(valid, -0.1, 0.0), np.broadcast_to(to_come, (n, k, h))
    met = SimpleNamespace(valid=jnp.asarray(valid), outcome=SimpleNamespace(diverged=jnp.asarray(diverged)))
    config = ppo.PpoConfig(credit=credit, gamma=gamma)
    weights = TaskWeights(jnp.ones(n), jnp.ones(n))
    got, _ = on_policy.advantages(config, met, jnp.asarray(reward), jnp.asarray(value), weights)
    got = np.asarray(got)
    assert got[1, 0, 4] == 0.0
    assert got[1, 0].max() < 0.05  # as the whole episode's, without credit for what is not paid any more
    if credit == "episode":
        assert got[2, 0, 4] > 0.5  # an end is an end
    np.testing.assert_array_equal(got[:, 0, 5:][1:], 0.0)


def test_statistics_are_those_of_brax():
    """Weighted, beyond 2^32 samples, and in the state's layout, which checkpoints have."""
    theirs = running_statistics.init_state(jnp.zeros(3), std_eps=1e-8)
    ours = statistics.init(jnp.zeros(3), 1e-8)
    for first in (np.ones(40), np.full(40, 1.1e8), RNG.integers(0, 2, 40)):
        batch, weights = 3 + RNG.normal(size=(40, 3)).astype(np.float32), jnp.asarray(first, jnp.float32)
        theirs = running_statistics.update(theirs, batch, weights=weights)
        ours = statistics.update(ours, batch, weights)
        named = [
            {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(s)}
            for s in (theirs, ours)
        ]
        assert named[0].keys() == named[1].keys()
        for name in named[0]:
            np.testing.assert_array_equal(named[0][name], named[1][name], err_msg=name)
    x = RNG.normal(size=(5, 3))
    np.testing.assert_array_equal(running_statistics.normalize(x, theirs), statistics.normalise(x, ours))


def test_reward_scaling_against_loops(x64):
    """The reference's order, in plain numpy, over two iterations of whole tasks."""
    stats_ = statistics.init(jnp.zeros(()), 1e-8)
    seen, gamma = [], 0.9
    for _ in range(2):
        reward = RNG.normal(size=(4, 5)) * 3
        stats_, got = normalise_rewards(stats_, reward, gamma)
        total, expected = np.zeros(4), np.zeros((4, 5))
        for t in range(5):
            total = np.zeros(4) if t == 4 else gamma * total + reward[:, t]
            seen.append(total)
            expected[:, t] = np.clip(reward[:, t] / np.sqrt(np.var(np.concatenate(seen)) + 1e-8), -10, 10)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
